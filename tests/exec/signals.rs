//! Signals before, during and after the command of an `exec`.
use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// A remote that refuses the first so many reads and holds all others until it is told.
fn held_after(cloud: &Cloud, refused: usize) -> (Arc<Notify>, impl Fn() -> usize) {
    let (held, reads) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (hold, count) = (held.clone(), reads.clone());
    cloud.server.control().set_hook(move |request| match request.operation {
        "GetObject" if count.fetch_add(1, Ordering::SeqCst) < refused => {
            Fault::FailBefore(s3s::S3ErrorCode::AccessDenied)
        }
        "GetObject" => Fault::Hold(hold.clone()),
        _ => Fault::None,
    });
    (held, move || reads.load(Ordering::SeqCst))
}

/// `exec` of something that makes a file `ran`; not waited for.
fn starting(lab: &Lab, options: &[&str]) -> std::process::Child {
    let mut command = command(lab, options, "touch ran");
    command.current_dir(lab.place()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// FUNCTIONS, Exec: "A signal that asks for the end before the command runs ends the start at once". Whatever of it goes
/// on: the read of the state, or the second one, which finds out whether that cannot be read.
#[test]
fn a_signal_ends_a_start_at_once_wherever_it_is() {
    for mode in MODES {
        for (refused, name) in [(0, Signal::TERM), (1, Signal::INT)] {
            let what = format!("{mode:?} {refused} {name:?}");
            let cloud = Cloud::prepare();
            let (held, reads) = held_after(&cloud, refused);
            let options = [mode, &["--grace", "1h"]].concat();
            let mut child = starting(&cloud.lab, &options);
            eventually("a read is held", LIMIT, || (reads() > refused).then_some(()));
            signal(child.id(), name);
            assert_eq!(wait_for(&mut child, LIMIT), Some(125), "{what}");
            let mut said = String::new();
            std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
            assert!(said.contains("a signal ended the start") && !said.contains("network"), "{what}: {said}");
            assert!(!cloud.lab.mounted() && !cloud.lab.place().join("ran").exists(), "{what}: {said}");
            held.notify_waiters();
        }
    }
}
