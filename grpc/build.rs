//! Compiles the protos at build time. protox is a protobuf compiler written in Rust, so
//! you don't need to install `protoc`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=protos");
    let descriptors = protox::compile(["weather/v1/weather.proto"], ["protos"])?;
    let out_dir = env::var("OUT_DIR")?;
    // The reflection service sends these descriptors to generic clients.
    fs::write(Path::new(&out_dir).join("weather_descriptor.bin"), descriptors.encode_to_vec())?;
    let mut methods = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            methods.extend(service.method.iter().map(|method| {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                (path, method.client_streaming(), method.server_streaming())
            }));
        }
    }
    fs::write(Path::new(&out_dir).join("methods.rs"), format!("&{methods:?}"))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
