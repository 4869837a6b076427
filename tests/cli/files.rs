//! Tests of files: they are written whole or not at all, and read once.

use std::io::Write;
use std::process::{Command, Stdio};

use ndarray_npy::WriteNpyExt;

use crate::models::mlp;
use crate::space::{Ran, Space};

#[test]
fn weights_of_the_model_are_not_written_over() {
    let space = Space::new("weights_of_the_model_are_not_written_over");
    space.with_data_in("m.onnx", "weights.npz");
    space.data("x.safetensors", &[("x", &enfold::Tensor::from_f32(&[2, 4], vec![1.0; 8]).unwrap())]);
    space.ok("run m.onnx --input x.safetensors --output y.safetensors --device cpu");
    assert_eq!(space.arrays("y.safetensors")[0].2, [4.0; 8]);
    space.ok("quantize m.onnx --dynamic --output q.enfold");
    let weights = std::fs::read(space.path("weights.npz")).unwrap();
    for command in [
        "quantize m.onnx --dynamic --output weights.npz",
        "quantize m.onnx --calibrate x.safetensors --shard 1/1 --state weights.npz",
        "run m.onnx --input x.safetensors --device cpu --output ./weights.npz",
        "export m.onnx --onnx weights.npz",
        "compare m.onnx q.enfold --input x.safetensors --html weights.npz",
    ] {
        space.fails(2, command, &["weights.npz", "holds weights of m.onnx"]);
        assert_eq!(std::fs::read(space.path("weights.npz")).unwrap(), weights, "{command}");
    }
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_what_was_there() {
    let space = Space::new("a_full_disk_leaves_what_was_there");
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 64);
    for (command, written) in [
        ("quantize mlp.enfold --dynamic --output", "q.enfold"),
        ("quantize mlp.enfold --dynamic --output", "q.onnx"),
        ("quantize mlp.enfold --calibrate x.safetensors --shard 1/1 --state", "s.state"),
        ("export mlp.enfold --onnx", "m.onnx"),
        ("run mlp.enfold --input x.safetensors --device cpu --output", "y.npz"),
    ] {
        std::fs::write(space.path(written), "before").unwrap();
        let before = space.files();
        // The shell limits files to a block of 512 bytes, so writing fails as on a full disk.
        let script = "trap '' XFSZ; ulimit -f 1; exec \"$@\"";
        let mut limited = Command::new("sh");
        limited.current_dir(space.path("")).args(["-c", script, "sh", env!("CARGO_BIN_EXE_enfold")]);
        let ran = Ran::of(limited.args(command.split(' ')).arg(written).output().unwrap());
        assert_eq!((ran.code, ran.err.contains(&format!("{written} cannot be written"))), (Some(1), true), "{ran:?}");
        assert_eq!(space.read(written), "before");
        assert_eq!(space.files(), before, "{command}");
    }
}

#[test]
#[cfg(unix)]
fn a_model_may_come_through_a_pipe() {
    let space = Space::new("a_model_may_come_through_a_pipe");
    space.copy("digits_mlp.onnx");
    space.copy("digits_mlp.safetensors");
    space.save("mlp.enfold", &mlp());
    // With a redirection, as in `< m.onnx`, standard input is the file itself.
    std::fs::copy(space.path("digits_mlp.onnx"), space.path("without_extension")).unwrap();
    let redirected = |name: &str| {
        let file = std::fs::File::open(space.path(name)).unwrap();
        let ran = Ran::of(space.command("inspect --json /dev/stdin").stdin(file).output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{name}");
        serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()
    };
    let inspect = |name: &str| {
        let ran = piped(&space, "inspect --json /dev/stdin", name);
        serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()
    };
    for name in ["mlp.enfold", "digits_mlp.onnx"] {
        let (mut piped, mut file) = (inspect(name), space.json(&format!("inspect --json {name}")));
        assert_eq!(piped["file_bytes"], std::fs::metadata(space.path(name)).unwrap().len());
        // All members must be equal except the path.
        piped["model"].take();
        file["model"].take();
        assert_eq!(piped, file);
        let mut redirected = redirected(name);
        redirected["model"].take();
        assert_eq!(redirected, file);
    }
    redirected("without_extension");
    // External data lie beside the redirected file, and are not overwritten.
    space.with_data_in("m.onnx", "weights.npz");
    redirected("m.onnx");
    let mut quantize = space.command("quantize /dev/stdin --dynamic --output weights.npz");
    let ran = Ran::of(quantize.stdin(std::fs::File::open(space.path("m.onnx")).unwrap()).output().unwrap());
    assert_eq!((ran.code, ran.err.contains("holds weights of")), (Some(2), true), "{ran:?}");
}

/// Runs a command on a file that comes through a pipe. The command must succeed.
#[cfg(unix)]
fn piped(space: &Space, arguments: &str, name: &str) -> Ran {
    let mut command = space.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&std::fs::read(space.path(name)).unwrap()).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "enfold {arguments} < {name}");
    ran
}

#[test]
#[cfg(unix)]
fn data_may_come_through_a_pipe() {
    let space = Space::new("data_may_come_through_a_pipe");
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 8);
    let x: Vec<f32> = space.arrays("x.safetensors").into_iter().find(|(name, ..)| name == "x").unwrap().2;
    let x = ndarray::ArrayD::from_shape_vec(vec![8, 12], x).unwrap();
    x.write_npy(std::fs::File::create(space.path("x.npy")).unwrap()).unwrap();
    let mut zip = zip::ZipWriter::new(std::fs::File::create(space.path("x.npz")).unwrap());
    zip.start_file("x.npy", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&std::fs::read(space.path("x.npy")).unwrap()).unwrap();
    zip.finish().unwrap();
    space.ok("run mlp.enfold --input x.safetensors --output y.npz --device cpu");
    for name in ["x.npy", "x.npz", "x.safetensors"] {
        piped(&space, "run mlp.enfold --input /dev/stdin --output z.npz --device cpu", name);
        assert_eq!(std::fs::read(space.path("z.npz")).unwrap(), std::fs::read(space.path("y.npz")).unwrap(), "{name}");
        std::fs::copy(space.path(name), space.path("without_extension")).unwrap();
        space.ok("run mlp.enfold --input without_extension --output z.npz --device cpu");
    }
    std::fs::write(space.path("without_extension"), "no data").unwrap();
    let run = "run mlp.enfold --input without_extension --output w.npz --device cpu";
    space.fails(2, run, &["without_extension: DATA is .npy, .npz or .safetensors"]);
}

#[test]
#[cfg(unix)]
fn devices_are_not_read() {
    let space = Space::new("devices_are_not_read");
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 8);
    for name in ["zero.onnx", "zero.enfold", "zero.safetensors", "zero.npy", "zero.npz"] {
        std::os::unix::fs::symlink("/dev/zero", space.path(name)).unwrap();
    }
    for name in ["zero.onnx", "zero.enfold", "zero.safetensors"] {
        space.fails(1, &format!("inspect {name}"), &[name, "a device"]);
    }
    for name in ["zero.npy", "zero.npz", "zero.safetensors"] {
        let run = format!("run mlp.enfold --input {name} --output y.npz --device cpu");
        space.fails(1, &run, &[name, "a device"]);
    }
}
