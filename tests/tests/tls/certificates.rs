//! `cargo run -- certificates`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lab::certificates::{Options, write};
use tests::{apply, test};
use tokio::process::Command;

use crate::chapters::CHAPTERS;

/// A new folder, which is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("certificates-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn contents(&self) -> BTreeMap<String, String> {
        let files = fs::read_dir(&self.0).unwrap().map(|file| file.unwrap());
        files.map(|f| (f.file_name().into_string().unwrap(), fs::read_to_string(f.path()).unwrap())).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options(renew: bool, station: &str) -> Options {
    Options { renew, broken: false, station: vec![station.to_owned()], ..Options::default() }
}

#[apply(test!)]
async fn existing_files_are_kept_unless_they_are_renewed() {
    let folder = Folder::new("kept");
    let kept = |files: Vec<lab::certificates::File>| files.iter().map(|file| file.kept).collect::<Vec<_>>();
    assert_eq!(kept(write(&folder.0, &options(false, "oslo-1")).unwrap()), [false, false, false]);
    let before = folder.contents();
    assert_eq!(before.len(), 6);

    assert_eq!(kept(write(&folder.0, &options(false, "rome-7")).unwrap()), [true, true, false]);
    let mut after = folder.contents();
    assert!(after.remove("client-rome-7.pem").is_some() && after.remove("client-rome-7-key.pem").is_some());
    assert_eq!(before, after);

    assert_eq!(kept(write(&folder.0, &options(true, "oslo-1")).unwrap()), [false, false, false]);
    let after = folder.contents();
    assert!(before.iter().all(|(name, text)| after[name] != *text));
}

#[apply(test!)]
async fn a_key_without_its_certificate_is_not_overwritten() {
    let folder = Folder::new("half");
    write(&folder.0, &options(false, "oslo-1")).unwrap();
    fs::remove_file(folder.0.join("server.pem")).unwrap();
    let before = folder.contents();
    let error = format!("{:#}", write(&folder.0, &options(false, "oslo-1")).unwrap_err());
    let expected =
        "server-key.pem exists, but the file that belongs to it is missing; to replace all, add --renew";
    assert!(error.ends_with(expected), "{error}");
    assert_eq!(folder.contents(), before);
    write(&folder.0, &options(true, "oslo-1")).unwrap();
}

#[cfg(unix)]
#[apply(test!)]
async fn only_the_owner_may_read_a_key() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new("modes");
    write(
        &folder.0,
        &Options { renew: false, broken: true, station: vec!["oslo-1".to_owned()], ..Options::default() },
    )
    .unwrap();
    let mut keys = 0;
    for name in folder.contents().into_keys() {
        let mode = fs::metadata(folder.0.join(&name)).unwrap().permissions().mode() & 0o777;
        if name.ends_with("-key.pem") {
            assert_eq!(mode, 0o600, "{name}");
            keys += 1;
        }
    }
    assert_eq!(keys, 8);
}

#[apply(test!)]
async fn the_programs_find_the_folder_and_say_how_to_create_it() {
    let folder = Folder::new("default");
    let run = async |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        let output = command.args(args).current_dir(&folder.0).kill_on_drop(true).output().await.unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    let missing = |file: &str, command: &str| {
        (Some(1), format!("error: there is no file certificates/{file}; to create it, run: {command}\n"))
    };
    let create = "cargo run -- certificates";
    for chapter in &CHAPTERS {
        let url = format!("{}://127.0.0.1:1", chapter.schemes[1]);
        let call = [chapter.call, &["--url", &url]].concat();
        assert_eq!(run(chapter.pair.server, &["--tls"]).await, missing("server.pem", create));
        assert_eq!(run(chapter.pair.client, &call).await, missing("ca.pem", create));
    }
    let (code, printed) = run(env!("CARGO_BIN_EXE_lab-under-test"), &["certificates"]).await;
    assert_eq!(code, Some(0), "{printed}");
    for file in ["ca.pem ", "server.pem ", "client-oslo-1.pem ", "client-rome-7.pem "] {
        let line = printed.lines().find(|line| line.starts_with(&format!("certificates/{file}"))).unwrap();
        assert!(line.contains(" until 20"), "{line}");
    }
    for chapter in &CHAPTERS {
        let url = format!("{}://127.0.0.1:1", chapter.schemes[1]);
        let call = [chapter.call, &["--url", &url, "--identity", "lima-2"]].concat();
        let create = "cargo run -- certificates --station lima-2";
        assert_eq!(run(chapter.pair.client, &call).await, missing("client-lima-2.pem", create));
        let call = [chapter.call, &["--url", &url, "--identity", "oslo-1"]].concat();
        let start = format!("cargo run -p {} --bin server -- --tls", chapter.pair.chapter);
        let (code, printed) = run(chapter.pair.client, &call).await;
        assert_eq!(
            (code, printed),
            (Some(1), format!("error: no server at {url}; start one with: {start}\n"))
        );
    }
}
