//! Tests of `bench` and `adapters`.

use crate::models::{encoder, mlp};
use crate::space::{Space, has_adapter};

#[test]
fn times_come_after_a_check() {
    let space = Space::new("times_come_after_a_check");
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 64);
    space.ok("quantize mlp.enfold --calibrate x.safetensors --output q.enfold");
    let json = space.json("bench q.enfold --device cpu --rows 16 --runs 5 --json");
    assert_eq!((json["rows"].as_u64(), json["threads"].as_u64().is_some_and(|n| n > 0)), (Some(16), true));
    let cpu = &json["devices"][0];
    assert_eq!((cpu["device"].as_str(), cpu["check"]["equal"].as_bool()), (Some("cpu"), Some(true)));
    let time = |what: &str| cpu["times"][0][what].as_f64().unwrap();
    assert!(0.0 < time("min_us") && time("min_us") <= time("median_us") && time("median_us") <= time("max_us"));
    assert_eq!(time("runs"), 5.0);
    let out = space.ok("bench q.enfold --device cpu --runs 3 --input x.safetensors");
    assert!(out.contains("x [64, 12]") && out.contains("outputs equal the reference's bits"), "{out}");
    assert!(out.contains("device  measured  median"), "{out}");
}

#[test]
fn ids_are_drawn_from_the_table() {
    let space = Space::new("ids_are_drawn_from_the_table");
    space.save("encoder.enfold", &encoder());
    let json = space.json("bench encoder.enfold --device reference --runs 2 --json");
    assert_eq!((&json["devices"][0]["device"], &json["rows"]), (&"reference".into(), &serde_json::Value::Null));
    space.fails(2, "bench encoder.enfold --rows 3", &["--rows 3", "fixed"]);
}

#[test]
fn the_gpu_is_measured_resident_and_round_trip() {
    let space = Space::new("the_gpu_is_measured_resident_and_round_trip");
    let adapters = space.json("adapters --json");
    let adapters = adapters.as_array().unwrap();
    if !has_adapter(&space) {
        return;
    }
    let table = space.ok("adapters");
    assert_eq!(table.lines().count(), 1 + adapters.len(), "{table}");
    let name = adapters[0]["name"].as_str().unwrap();
    assert!(table.starts_with("name ") && table.contains(name), "{table}");
    space.save("mlp.enfold", &mlp());
    space.ok("quantize mlp.enfold --dynamic --per-token --output q.enfold");
    let json = space.json("bench q.enfold --device gpu --runs 3 --json");
    let gpu = &json["devices"][0];
    assert!(gpu["name"].as_str().unwrap().starts_with(name), "{gpu}");
    let what: Vec<&str> = gpu["times"].as_array().unwrap().iter().map(|t| t["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["resident", "round trip"]);
    assert!(gpu["check"]["cosine"].as_f64().unwrap() > 0.999);
    let json = space.json("bench q.enfold --device gpu --runs 1 --steps --json");
    let steps = json["devices"][0]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["kernels"].as_str().unwrap().starts_with("linear")), "{steps:?}");
    assert!(steps.iter().all(|step| step["us"].as_f64().unwrap() > 0.0), "{steps:?}");
    let text = space.ok("bench q.enfold --device gpu --runs 1 --steps");
    assert!(text.lines().any(|line| line.starts_with("step ") && line.ends_with("time")), "{text}");
    let json = space.json("bench q.enfold --device cpu --runs 3 --steps --json");
    let (steps, times) = (json["devices"][0]["steps"].as_array().unwrap(), &json["devices"][0]["times"][0]);
    assert!(steps.iter().any(|step| step["kernels"].as_str().unwrap().contains("linear")), "{steps:?}");
    let sum: f64 = steps.iter().map(|step| step["us"].as_f64().unwrap()).sum();
    assert!(sum > 0.0 && sum < 5.0 * times["max_us"].as_f64().unwrap(), "{sum} of {times}");
    space.fails(2, "bench q.enfold --device reference --steps", &["--steps", "gpu or cpu"]);
}
