// Makes all four kinds of call to the weather server.
//
//     grpc/node/setup
//     node grpc/node/client.js 127.0.0.1:50051

import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const proto = fileURLToPath(new URL("../protos/weather/v1/weather.proto", import.meta.url));
const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const { WeatherService } = grpc.loadPackageDefinition(loader.loadSync(proto, options)).weather.v1;
const client = new WeatherService(process.argv[2] ?? "127.0.0.1:50051", grpc.credentials.createInsecure());

// The deadline of each call, so that no call waits forever.
const deadline = () => ({ deadline: Date.now() + 20_000 });
const record = (request) => promisify(client.Record).call(client, request, deadline());
const reading = (metric, value) =>
    ({ station: "node-1", metric: `METRIC_${metric}`, value, recorded_at: 1767225600000 });

const { accepted } = await record({ readings: [reading("TEMPERATURE", 21.5), reading("HUMIDITY", 40)] });
console.log(`Record: accepted ${accepted}`);

const seen = [];
const watch = client.Watch({ station: "node-1", newest: 2 }, deadline());
watch.on("error", () => {}); // The cancellation below is reported as an error.
for await (const { recorded } of watch) {
    if (recorded) {
        const metric = recorded.reading.metric.replace("METRIC_", "").toLowerCase();
        seen.push(`${recorded.sequence} ${metric} ${recorded.reading.value}`);
    }
    if (seen.length === 2) break;
}
watch.cancel();
console.log(`Watch: ${seen.join(", ")}`);

const summary = await new Promise((resolve, reject) => {
    const upload = client.Upload(deadline(), (error, response) => (error ? reject(error) : resolve(response)));
    for (const value of [21.6, 999, 21.7]) upload.write({ reading: reading("TEMPERATURE", value) });
    upload.end();
});
const reasons = summary.rejections.map(({ index, field }) => `message ${index} ${field}`);
console.log(`Upload: accepted ${summary.accepted}, rejected ${summary.rejected}: ${reasons}`);

const steps = [];
const monitor = client.Monitor(deadline());
monitor.write({ add: { id: "hot", station: "node-1", metric: "METRIC_TEMPERATURE", above: 30 } });
for await (const { event, added, alert, removed } of monitor) {
    if (event === "added") {
        steps.push(`added ${added}`);
        await record({ readings: [reading("TEMPERATURE", 31)] });
    } else if (event === "alert") {
        steps.push(`alert ${alert.id} ${alert.recorded.reading.value}`);
        monitor.write({ remove: "hot" });
    } else {
        steps.push(`removed ${removed}`);
        monitor.end();
    }
}
console.log(`Monitor: ${steps.join(", ")}`);

try {
    await record({ readings: [reading("WIND", 999)] });
} catch (error) {
    console.log(`${grpc.status[error.code]}: ${error.details}`);
}
client.close();
