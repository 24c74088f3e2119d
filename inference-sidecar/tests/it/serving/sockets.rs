//! The unix socket of the server: whose it is, and when it is there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use super::{Running, command, folder_of};

const MODEL: &str = "lead-score-logistic";

#[test]
fn a_socket_is_of_one_user_and_goes_with_its_server() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("inference.sock");
    let words = ["--grpc-socket", path.to_str().unwrap()];
    let (mut server, _folder) = Running::start(&[MODEL], &words);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    UnixStream::connect(&path).unwrap();
    // Two servers do not take it from each other.
    let folder = folder_of(&[MODEL]);
    let models = folder.path().to_str().unwrap();
    let ports = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
    let second = || {
        let words = [&["serve", "--models", models][..], &ports, &words].concat();
        let output = command(&words).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (started, said) = second();
    assert!(!started && said.contains("another process serves this socket"), "{said}");
    UnixStream::connect(&path).unwrap();
    let ended = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status().unwrap();
    assert!(ended.success() && server.child.wait().unwrap().success());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    // What is no socket is left alone.
    fs::write(&path, "a file").unwrap();
    let (started, said) = second();
    assert!(!started && said.contains("no socket"), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
}

#[test]
fn a_socket_that_a_crash_left_behind_is_replaced() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("inference.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).is_err());
    let (mut server, _folder) = Running::start(&[MODEL], &["--grpc-socket", path.to_str().unwrap()]);
    UnixStream::connect(&path).unwrap();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert!(path.exists() && UnixStream::connect(&path).is_err());
    let (_server, _folder) = Running::start(&[MODEL], &["--grpc-socket", path.to_str().unwrap()]);
    UnixStream::connect(&path).unwrap();
}
