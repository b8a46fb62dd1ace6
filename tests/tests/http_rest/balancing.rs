//! Two servers behind nginx.

use std::process::Command;

use tests::{apply, assert_same, expected_output, run_program, test};

fn nginx() -> Result<(), String> {
    let mut command = Command::new("nginx");
    command.arg("-v").env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("no nginx: install it with `apt-get install nginx-light`".to_owned()),
    }
}

#[apply(test!)]
#[needs(nginx())]
async fn two_servers_behind_nginx_respond_as_the_page_shows() {
    let printed = run_program(env!("CARGO_BIN_EXE_http_rest-balancing"), &[]).await;
    let shown = expected_output("docs/scaling.md", "cargo run -p http_rest --example balancing");
    assert_eq!(printed.stderr, "");
    assert_same(&printed.stdout, &shown);
}
