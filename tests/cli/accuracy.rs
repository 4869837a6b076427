//! Tests of the passes for accuracy: `quantize --smooth`, `--clip`, `--gptq`, `--plan` and targets, and `sensitivity`.

use enfold::compare::sqnr_db;
use enfold::interp::Interpreter;
use enfold::quantize::accuracy::{
    ChannelStatistics, GptqOptions, Hessians, LayerChoice, Plan, SmoothOptions, clip_weights, gptq, smooth,
};
use enfold::quantize::{ConvertOptions, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare};
use enfold::{Graph, Tensor, archive};

use crate::models::mlp;
use crate::space::Space;

fn quantizer(config: QuantizationConfig) -> WgpuQuantizer {
    WgpuQuantizer::new().set_global(config).float_islands(true)
}

#[test]
fn passes_are_the_librarys() {
    let space = Space::new("passes_are_the_librarys");
    space.save("mlp.enfold", &mlp());
    let x = space.mlp_data("x.safetensors", 64);
    let data = "--quiet quantize mlp.enfold --calibrate x.safetensors --batch-size 64 --output q.enfold";
    let mut seen = Vec::new();
    for (flags, alpha, search) in
        [("--smooth", 0.8, false), ("--smooth=0.5", 0.5, false), ("--smooth-search", 0.8, true)]
    {
        space.ok(&format!("{data} {flags}"));
        let mut statistics = ChannelStatistics::new(&mlp());
        statistics.observe(&[&x]).unwrap();
        let options = SmoothOptions::default().with_alpha(alpha).with_search(search);
        let smoothed = smooth(&mlp(), &statistics, &options).unwrap();
        assert!(smoothed.values.iter().any(|value| value.alpha.is_some()), "{smoothed}");
        let config = QuantizationConfig::symmetric().per_channel().activation_observer(ObserverKind::PERCENTILE);
        let quantizer = quantizer(config);
        let mut prepared = prepare(&smoothed.graph, &quantizer).unwrap();
        prepared.observe(&[&x]).unwrap();
        let found = archive::load(space.path("q.enfold")).unwrap();
        assert_eq!(found, convert(&prepared, &ConvertOptions::default()).unwrap(), "{flags}");
        seen.push(found);
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2], "the options make a difference");
    // With a scale per token, smoothing has less to gain.
    let (dynamic, config) =
        (SmoothOptions::default().with_dynamic(true), QuantizationConfig::symmetric().per_channel());
    let mut smoothed_graphs = Vec::new();
    for (flags, options, config) in [
        ("--dynamic", dynamic, config.clone().dynamic()),
        ("--dynamic --per-token", dynamic.with_per_token(true), config.dynamic_per_token()),
    ] {
        space.ok(&format!("{data} {flags} --smooth"));
        let mut statistics = ChannelStatistics::new(&mlp());
        statistics.observe(&[&x]).unwrap();
        let smoothed = smooth(&mlp(), &statistics, &options).unwrap().graph;
        let expected = convert(&prepare(&smoothed, &quantizer(config)).unwrap(), &ConvertOptions::default()).unwrap();
        assert_eq!(archive::load(space.path("q.enfold")).unwrap(), expected, "{flags}");
        smoothed_graphs.push(smoothed);
    }
    assert!(smoothed_graphs[0] != smoothed_graphs[1], "the scheme makes a difference");
    // Weights of few bits, dynamically: calibration data serve GPTQ alone.
    for (flags, clipped, rounded) in
        [("", false, false), ("--clip mse", true, false), ("--clip mse --gptq", true, true)]
    {
        let data = if rounded { "--calibrate x.safetensors --batch-size 64" } else { "" };
        let scheme = "--dynamic --per-token --weight-bits 3";
        space.ok(&format!("--quiet quantize mlp.enfold {data} {scheme} {flags} --output q.enfold"));
        let mut config = QuantizationConfig::symmetric().weight_bits(3).per_channel().dynamic_per_token();
        if flags.contains("--group") {
            config = config.weight_group(8);
        }
        if flags.contains("asymmetric") {
            config = config.asymmetric_weights();
        }
        let mut prepared = prepare(&mlp(), &quantizer(config)).unwrap();
        if clipped {
            clip_weights(&mut prepared).unwrap();
        }
        if rounded {
            let mut hessians = Hessians::new(&prepared);
            hessians.observe(&[&x]).unwrap();
            gptq(&mut prepared, &hessians, &GptqOptions::default()).unwrap();
        }
        let found = archive::load(space.path("q.enfold")).unwrap();
        assert_eq!(found, convert(&prepared, &ConvertOptions::default()).unwrap(), "{flags}");
        assert!(!seen.contains(&found), "{flags} makes a difference");
        seen.push(found);
    }
    // Passes that need no data come after the shards are merged. A GELU's input has a range of its own.
    space.ok("--quiet quantize mlp.enfold --calibrate x.safetensors --batch-size 64 --clip mse --fit-ranges --output whole.enfold");
    space.ok("quantize mlp.enfold --calibrate x.safetensors --batch-size 64 --shard 1/1 --state s");
    space.ok("--quiet merge s --clip mse --fit-ranges --output merged.enfold");
    let [whole, merged] = ["whole.enfold", "merged.enfold"].map(|name| archive::load(space.path(name)).unwrap());
    assert_eq!(whole, merged);
    space.ok("--quiet merge s --clip mse --output merged.enfold");
    assert_ne!(whole, archive::load(space.path("merged.enfold")).unwrap(), "--fit-ranges makes a difference");
    // Notes say what the passes did.
    let ran = space.enfold(&format!("quantize{} --smooth --clip mse --gptq", &data["--quiet quantize".len()..]));
    for part in ["smoothed", "clipped 3 weights", "rounded 3 weights"] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
}

/// Smoothing and GPTQ in shards: two rounds, whose result has the bytes of one run.
#[test]
fn shards_smooth_and_round_as_one_run_does() {
    let space = Space::new("shards_smooth_and_round_as_one_run_does");
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 50);
    for (round, scheme) in ["--observer minmax --weight-bits 4", "--dynamic --weight-bits 3"].iter().enumerate() {
        let data = "--calibrate x.safetensors --batch-size 8";
        let whole =
            format!("--quiet quantize mlp.enfold {data} {scheme} --smooth=0.7 --clip mse --gptq --output whole.enfold");
        space.ok(&whole);
        let name = |what: &str, part: usize| format!("{what}{round}.{part}");
        let mut batches = 0;
        for part in 1..=3 {
            let state = name("statistics", part);
            let out =
                space.ok(&format!("quantize mlp.enfold {data} {scheme} --smooth=0.7 --shard {part}/3 --state {state}"));
            assert!(out.contains(&format!("channel statistics of part {part} of 3")), "{out}");
            batches += out.trim_end().rsplit(", ").next().unwrap().split(' ').next().unwrap().parse::<usize>().unwrap();
        }
        assert_eq!(batches, 7, "50 rows in batches of 8");
        let states =
            |what: &str, parts: &[usize]| parts.iter().map(|&part| name(what, part)).collect::<Vec<_>>().join(" ");
        let smoothed = format!("smoothed{round}");
        let out = space.ok(&format!("merge {} --output {smoothed}", states("statistics", &[1, 2, 3])));
        assert!(out.contains("smoothed") && out.contains("by 7 batches; quantize it without --smooth"), "{out}");
        for part in 1..=3 {
            let state = name("moments", part);
            space.ok(&format!("quantize {smoothed} {data} {scheme} --gptq --shard {part}/3 --state {state}"));
        }
        let all = states("moments", &[1, 2, 3]);
        space.ok(&format!("--quiet merge {all} --clip mse --gptq --output merged.enfold"));
        let bytes = |name: &str| std::fs::read(space.path(name)).unwrap();
        assert!(bytes("merged.enfold") == bytes("whole.enfold"), "{scheme}");
        // Without one part, or one of the passes, the bytes are others.
        space.ok(&format!("--quiet merge {} --clip mse --gptq --output merged.enfold", states("moments", &[1, 3])));
        assert!(bytes("merged.enfold") != bytes("whole.enfold"), "{scheme}: a part is missing");
        let ran = space.enfold(&format!("merge {all} --clip mse --output merged.enfold"));
        assert!(ran.err.contains("add --gptq") && bytes("merged.enfold") != bytes("whole.enfold"), "{ran:?}");
        space.ok(&format!("--quiet merge {} --output few", states("statistics", &[2])));
        assert!(bytes("few") != bytes(&smoothed), "{scheme}: other statistics");
    }

    std::fs::copy(space.path("moments1.2"), space.path("copy")).unwrap();
    space.fails(
        2,
        "merge moments1.1 moments1.2 copy --gptq --output no.enfold",
        &["copy", "moments1.2", "counts once"],
    );
    std::fs::copy(space.path("statistics0.2"), space.path("copy")).unwrap();
    space.fails(
        2,
        "merge statistics0.1 statistics0.2 copy --output no.enfold",
        &["copy", "statistics0.2", "counts once"],
    );
    space.fails(
        2,
        "merge statistics0.1 moments0.1 --output no.enfold",
        &["statistics0.1", "moments0.1", "merge them apart"],
    );
    space.fails(
        2,
        "merge statistics0.1 statistics1.1 --output no.enfold",
        &["--smooth=0.7 --dynamic", "give all shards the same"],
    );
    space.fails(2, "merge statistics0.1 --clip mse --output no.enfold", &["--clip comes later", "quantize that model"]);
    space.fails(2, "merge statistics0.1 --output no.onnx", &["no.onnx", "archive"]);
    let shard = "quantize mlp.enfold --calibrate x.safetensors --batch-size 8 --observer minmax --weight-bits 4";
    space.ok(&format!("{shard} --shard 1/2 --state plain"));
    space.ok(&format!("{shard} --gptq --shard 2/2 --state rounded"));
    space.fails(2, "merge plain --gptq --output no.enfold", &["plain has no second moments", "give --gptq"]);
    space.fails(2, "merge rounded plain --gptq --output no.enfold", &["plain has no second moments"]);
    space.fails(
        1,
        "quantize statistics0.1 --dynamic --output no.enfold",
        &["channel statistics", "enfold merge statistics0.1"],
    );
    space.fails(1, "run statistics0.1 --input x.safetensors --output no.npz", &["enfold merge statistics0.1"]);
    assert!(space.ok("inspect statistics0.1").contains("channel statistics"));
}

fn sqnr(graph: &Graph, x: &Tensor) -> f64 {
    let [own, found] = [&mlp(), graph].map(|graph| Interpreter::new(graph).run(&[x]).unwrap().swap_remove(0));
    sqnr_db(own.as_f32().unwrap(), found.as_f32().unwrap()).unwrap()
}

#[test]
fn layers_are_chosen_for_a_target() {
    let space = Space::new("layers_are_chosen_for_a_target");
    space.save("mlp.enfold", &mlp());
    let x = space.mlp_data("x.safetensors", 64);
    let command = "sensitivity mlp.enfold --calibrate x.safetensors --rows 64";
    let table = space.ok(command);
    assert!(table.lines().count() == 4 && table.contains("block.fc1") && table.contains("int8_per_token"), "{table}");
    let json = space.json(&format!("{command} --target-sqnr 30 --plan plan.json --html page.html --json"));
    assert_eq!(json["rows"], 64);
    for layer in json["layers"].as_array().unwrap() {
        let ratio = |choice: &str| {
            let errors = layer["errors"].as_array().unwrap();
            let error = errors.iter().find(|error| error["choice"] == choice).unwrap();
            error["output_sqnr_db"].as_f64()
        };
        let (int4, int8) = (ratio("int4_per_token").unwrap(), ratio("int8").unwrap());
        assert!(int8 > int4 + 10.0 && ratio("float").is_none(), "{layer}");
    }
    let page = space.read("page.html");
    assert!(page.contains("&lt;head&gt;&amp;co") && !page.contains("<head>&co") && !page.contains("<script"), "{page}");
    let plan: Plan = serde_json::from_str(&space.read("plan.json")).unwrap();
    assert_eq!(plan.layers.len(), 3);
    // Another target has other choices; a plan does what it says.
    let calibrated = "--calibrate x.safetensors --batch-size 64 --output q.enfold";
    let mut last = (f64::NEG_INFINITY, 0);
    for target in [10.0, 30.0, 45.0, 150.0] {
        let json = space.json(&format!("{command} --target-sqnr {target} --plan plan.json --json"));
        let plan: Plan = serde_json::from_str(&space.read("plan.json")).unwrap();
        let bytes = json["bytes"].as_u64().unwrap();
        assert!(json["predicted_sqnr_db"].as_f64().is_none_or(|db| db >= target), "{json}");
        assert!(bytes >= last.1, "a higher target needs no fewer bytes");
        space.ok(&format!("--quiet quantize mlp.enfold --plan plan.json {calibrated}"));
        let by_plan = archive::load(space.path("q.enfold")).unwrap();
        space.ok(&format!("--quiet quantize mlp.enfold --target-sqnr {target} {calibrated}"));
        let reached = sqnr(&archive::load(space.path("q.enfold")).unwrap(), &x);
        assert!(reached >= target, "{reached} dB, target {target}");
        let all_float = plan.layers.values().all(|choice| *choice == LayerChoice::Float);
        assert_eq!(all_float, target > 100.0, "{plan:?}");
        assert!(all_float || sqnr(&by_plan, &x) > target - 6.0, "{plan:?}");
        last = (target, bytes);
    }
}

#[test]
fn wrong_arguments_of_passes_are_named() {
    let space = Space::new("wrong_arguments_of_passes_are_named");
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 8);
    std::fs::write(space.path("other.json"), r#"{"layers": {"block.fc7": "int8"}}"#).unwrap();
    std::fs::write(space.path("wrong.json"), r#"{"layers": {"block.fc1": "int5"}}"#).unwrap();
    let quantize = "quantize mlp.enfold --output q.enfold";
    let calibrated = format!("{quantize} --calibrate x.safetensors");
    for (arguments, parts) in [
        (format!("{quantize} --dynamic --smooth"), &["--smooth needs data", "--calibrate"][..]),
        (format!("{quantize} --dynamic --gptq"), &["--gptq needs data"]),
        (format!("{quantize} --dynamic --plan other.json"), &["--plan needs data"]),
        (format!("{calibrated} --smooth=1.5"), &["--smooth 1.5", "0..=1"]),
        (format!("{calibrated} --smooth --smooth-search"), &["--smooth-search", "--smooth"]),
        (format!("{calibrated} --weight-bits 1"), &["--weight-bits", "1", "2"]),
        (format!("{calibrated} --group 30"), &["--group 30", "multiple of 4"]),
        (format!("{calibrated} --group 32 --asymmetric-weights"), &["8 bits", "--weight-bits"]),
        (format!("{calibrated} --asymmetric-weights --weight-bits 4"), &["--group"]),
        (format!("{calibrated} --percentile 20"), &["--percentile 20", "50..=100"]),
        (format!("{calibrated} --percentile 99 --observer minmax"), &["--percentile", "--observer percentile"]),
        (format!("{calibrated} --plan wrong.json --weight-bits 4"), &["--weight-bits", "choose"]),
        (format!("{calibrated} --target-sqnr 30 --per-tensor"), &["--per-tensor", "choose"]),
        (format!("{calibrated} --plan other.json"), &["block.fc7", "block.fc1"]),
        (format!("{calibrated} --plan wrong.json"), &["wrong.json", "int5"]),
        (format!("{calibrated} --target-sqnr 300"), &["--target-sqnr 300", "-20..=200"]),
        (format!("{calibrated} --target-cosine 2"), &["--target-cosine 2", "0.5..=1"]),
        (format!("{calibrated} --target-cosine 0.99 --target-sqnr 30"), &["--target-sqnr", "--target-cosine"]),
        ("sensitivity mlp.enfold --calibrate x.safetensors --plan p.json".to_owned(), &["--plan needs a target"]),
    ] {
        space.fails(2, &arguments, parts);
    }
    space.fails(2, &format!("{quantize} --dynamic --fit-ranges"), &["--fit-ranges", "--dynamic"]);
    let shard = "quantize mlp.enfold --calibrate x.safetensors --shard 1/2 --state s --clip mse";
    space.fails(2, shard, &["--clip comes after all shards", "enfold merge"]);
    let shard = "quantize mlp.enfold --calibrate x.safetensors --shard 1/2 --state s";
    space.fails(2, &format!("{shard} --smooth --gptq"), &["leave --gptq out", "that enfold merge smooths"]);
    space.fails(2, &format!("{shard} --target-sqnr 30"), &["whole batches", "leave --shard out"]);
    space.fails(1, "sensitivity absent.enfold --calibrate x.safetensors", &["absent.enfold"]);
    space.fails(1, "sensitivity mlp.enfold --calibrate absent.npz", &["absent.npz"]);
}
