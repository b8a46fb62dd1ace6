//! Compiles the protos at build time. protox is a protobuf compiler written in
//! Rust, so that no `protoc` has to be installed.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=protos");
    let descriptors = protox::compile(["weather/v1/weather.proto"], ["protos"])?;
    // The reflection service sends these descriptors to generic clients.
    let path = Path::new(&env::var("OUT_DIR")?).join("weather_descriptor.bin");
    fs::write(path, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
