//! Tests of messages: wrong arguments, files of another kind, closed pipes, and names with control characters.

use std::process::Stdio;

use enfold::{GraphBuilder, Shape, Tensor};

use crate::models::mlp;
use crate::space::{Ran, Space};

#[test]
fn wrong_arguments_are_one_line_and_status_2() {
    let space = Space::new("wrong_arguments_are_one_line_and_status_2");
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 8);
    let quantize = "quantize mlp.enfold --output q.enfold";
    for (arguments, parts) in [
        (String::new(), vec!["subcommand", "enfold --help"]),
        ("quantise mlp.enfold".to_owned(), vec!["quantise", "quantize"]),
        ("run mlp.enfold --input x.safetensors".to_owned(), vec!["--output <DATA>"]),
        (format!("{quantize} --dim batch"), vec!["NAME=N"]),
        (format!("{quantize} --dynamic --dim batch=8"), vec!["--dim batch=8", "archive"]),
        (format!("{quantize} --dynamic --dim a=1,b=2 --dim a=3"), vec!["--dim a is given twice, as 1 and as 3"]),
        (quantize.to_owned(), vec!["--calibrate DATA", "--dynamic"]),
        (format!("{quantize} --dynamic --calibrate x.safetensors"), vec!["--calibrate makes no sense with --dynamic"]),
        (format!("{quantize} --calibrate x.safetensors --per-token"), vec!["--per-token", "--dynamic"]),
        (format!("{quantize} --dynamic --observer mse"), vec!["--observer", "--dynamic"]),
        (format!("{quantize} --dynamic --per-tensor --per-channel"), vec!["--per-channel and --per-tensor"]),
        (format!("{quantize} --calibrate x.safetensors --observer best"), vec!["best", "histogram"]),
        (format!("{quantize} --calibrate x.safetensors --shard 1/2"), vec!["--state"]),
        (format!("{quantize} --calibrate x.safetensors --state s"), vec!["--shard"]),
        (format!("{quantize} --calibrate x.safetensors --shard 3/2 --state s"), vec!["3/2", "I/N"]),
        ("quantize mlp.enfold --dynamic".to_owned(), vec!["--output OUT is missing"]),
        ("quantize mlp.enfold --dynamic --output mlp.enfold".to_owned(), vec!["mlp.enfold is an input"]),
        ("quantize mlp.enfold --dynamic --output ./mlp.enfold".to_owned(), vec!["is an input"]),
        ("quantize mlp.enfold --dynamic --output no/q.enfold".to_owned(), vec!["folder no does not exist"]),
        ("run mlp.enfold --input x.safetensors --output x.safetensors".to_owned(), vec!["is an input"]),
        ("run mlp.enfold --input x.safetensors --output y.txt".to_owned(), vec!["y.txt", ".npz"]),
        ("run mlp.enfold --input x.txt --output y.npz".to_owned(), vec!["x.txt", ".npz"]),
        ("run mlp.enfold --input x.safetensors --output y.npz --device cpu --adapter a".to_owned(), vec!["--adapter"]),
        ("bench mlp.enfold --rows 0".to_owned(), vec!["0"]),
        ("export mlp.enfold --onnx o.onnx --preset caffe".to_owned(), vec!["caffe", "tensorrt"]),
        ("completions basic".to_owned(), vec!["basic", "bash"]),
    ] {
        space.fails(2, &arguments, &parts);
    }
}

#[test]
fn files_that_are_something_else_say_so() {
    let space = Space::new("files_that_are_something_else_say_so");
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 8);
    std::fs::write(space.path("text.txt"), "no model").unwrap();
    std::fs::write(space.path("text.npz"), "no data").unwrap();
    std::fs::write(space.path("text.npy"), "no data").unwrap();
    std::fs::write(space.path("text.safetensors"), "no data").unwrap();
    let whole = std::fs::read(space.path("mlp.enfold")).unwrap();
    std::fs::write(space.path("half.enfold"), &whole[..whole.len() / 2]).unwrap();
    for (arguments, parts) in [
        ("inspect none.onnx", vec!["none.onnx", "cannot be read"]),
        ("inspect .", vec!["is a folder"]),
        ("inspect text.txt", vec!["text.txt is no archive of enfold, nor called .onnx"]),
        ("inspect x.safetensors", vec!["x.safetensors is a safetensors file, but no archive of enfold"]),
        ("inspect half.enfold", vec!["half.enfold", "not a sound safetensors file"]),
        ("run mlp.enfold --input none.npz --output y.npz", vec!["none.npz", "cannot be read"]),
        ("run mlp.enfold --input text.npz --output y.npz", vec!["text.npz"]),
        ("run mlp.enfold --input text.npy --output y.npz", vec!["text.npy"]),
        ("run mlp.enfold --input text.safetensors --output y.npz", vec!["text.safetensors"]),
        ("compare mlp.enfold mlp.enfold --input x.safetensors", vec!["float model", "enfold quantize"]),
    ] {
        space.fails(1, arguments, &parts);
    }
    space.ok("quantize mlp.enfold --dynamic --output q.enfold");
    space.fails(1, "quantize q.enfold --dynamic --output p.enfold", &["quantized model", "already", "float model"]);
    space.fails(1, "compare q.enfold mlp.enfold --input x.safetensors", &["the float model comes first"]);
}

#[test]
fn help_version_and_completions() {
    let space = Space::new("help_version_and_completions");
    assert_eq!(space.ok("--version"), format!("enfold {}\n", env!("CARGO_PKG_VERSION")));
    let help = space.ok("--help");
    for command in ["inspect", "quantize", "merge", "run", "compare", "export", "bench", "adapters", "completions"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in\n{help}");
        assert!(space.ok(&format!("{command} --help")).contains("Usage: enfold"), "{command}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = space.ok(&format!("completions {shell}"));
        assert!(script.contains("leave-float"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let space = Space::new("a_closed_pipe_is_no_failure");
    space.save("mlp.enfold", &mlp());
    for arguments in ["--help", "inspect mlp.enfold --json", "completions bash"] {
        let mut child = space.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Close the pipe before anything is written.
        drop(child.stdout.take());
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{arguments}");
    }
}

/// A name with control characters: a colour, a cleared screen in one byte and in two, a carriage return, text from right to left, and a
/// line break.
const EVIL: &str = "a\u{1b}[31m\u{9b}2J\u{7f}\r\u{8}\u{202e}\nforged";

/// Panics if the output contains control characters, or a name with a line break.
fn assert_clean(ran: &Ran, what: &str) {
    for text in [&ran.out, &ran.err] {
        let control = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!text.contains(control), "{what}: {ran:?}");
        assert!(text.lines().all(|line| !line.starts_with("forged")), "{what}: {ran:?}");
    }
    assert!(ran.err.lines().count() <= 1, "{what}: {ran:?}");
}

#[test]
fn names_do_not_command_the_terminal() {
    let space = Space::new("names_do_not_command_the_terminal");
    let mut g = GraphBuilder::new();
    let x = g.input(&format!("in {EVIL}"), Shape::rows(4)).unwrap();
    let tensor = |shape: &[usize], value| Tensor::from_f32(shape, vec![value; shape.iter().product()]).unwrap();
    let h = g.linear(&format!("layer {EVIL}"), x, tensor(&[4, 4], 0.5), None).unwrap();
    let y = g.softmax(&format!("out {EVIL}"), h, 1).unwrap();
    space.save("m.enfold", &g.finish([y]).unwrap());
    let data = tensor(&[3, 4], 0.25);
    space.data("x.safetensors", &[(&format!("in {EVIL}"), &data), (&format!("unused {EVIL}"), &data)]);
    space.data("wrong.safetensors", &[(&format!("other {EVIL}"), &data)]);
    space.with_names("node.onnx", EVIL, ["rows", "rows"]);
    space.with_names("dims.onnx", "add", [EVIL, &format!("other {EVIL}")]);
    let quantize = "quantize m.enfold --calibrate x.safetensors --output q.enfold";
    for (code, arguments) in [
        (0, "inspect m.enfold"),
        (0, "inspect m.enfold --json"),
        (0, quantize),
        (0, &format!("{quantize} --verbose")),
        (0, &format!("{quantize} --json")),
        (2, &format!("{quantize} --leave-float layer")),
        (0, "inspect q.enfold"),
        (0, "inspect q.enfold --json"),
        (0, "run q.enfold --input x.safetensors --output y.npz --device cpu"),
        (0, "run q.enfold --input x.safetensors --output y.npz --device cpu --json"),
        (1, "run q.enfold --input wrong.safetensors --output y.npz --device cpu"),
        (0, "compare m.enfold q.enfold --input x.safetensors --html r.html"),
        (0, "compare m.enfold q.enfold --input x.safetensors --json"),
        (0, "bench q.enfold --device cpu --runs 1"),
        (0, "bench q.enfold --device cpu --runs 1 --json"),
        (0, "export q.enfold --onnx q.onnx"),
        (0, "inspect node.onnx"),
        (1, "inspect dims.onnx"),
        (2, "inspect m.enfold --\u{1b}[2J"),
        (1, "inspect \u{1b}[2J.onnx"),
    ] {
        let ran = space.enfold(arguments);
        assert_eq!(ran.code, Some(code), "{arguments}: {ran:?}");
        assert_clean(&ran, arguments);
        // Names are printed escaped, and JSON decodes to the original names.
        if arguments.starts_with("inspect m.") && arguments.ends_with("--json") {
            let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
            assert_eq!(json["nodes"][0]["name"], format!("layer {EVIL}"));
        } else if arguments == "inspect m.enfold" {
            assert!(ran.out.contains(r"layer a\u{1b}[31m\u{9b}2J\u{7f}\r\u{8}\u{202e}\nforged"), "{}", ran.out);
        }
    }
    let html = space.read("r.html");
    assert!(!html.contains(|c: char| c.is_control() && c != '\n') && html.contains(r"\u{1b}[31m"), "{html}");
    // The check itself must fail for an unescaped name.
    let unclean = Ran { code: None, out: EVIL.to_owned(), err: String::new() };
    assert!(std::panic::catch_unwind(|| assert_clean(&unclean, "a name as it is")).is_err());
}
