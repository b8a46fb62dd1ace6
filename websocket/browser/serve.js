// Serves the page beside this file, and passes all other requests on to the server of the HTTP chapter.
// To the browser, both have the same origin.
//
//     node websocket/browser/serve.js 8000 127.0.0.1:8080
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");

const [port, target] = process.argv.slice(2);
const [hostname, targetPort] = target.split(":");

function passOn(request, response) {
    const { method, url, headers } = request;
    const forwarded = http.request({ hostname, port: targetPort, method, path: url, headers });
    forwarded.on("response", (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
    });
    forwarded.on("error", (error) => response.writeHead(502).end(`${error.message}\n`));
    request.pipe(forwarded);
}

const server = http.createServer((request, response) => {
    if (new URL(request.url, "http://here").pathname !== "/") return passOn(request, response);
    response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" });
    fs.createReadStream(path.join(__dirname, "page.html")).pipe(response);
});
server.listen(Number(port), "127.0.0.1", () => {
    console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
