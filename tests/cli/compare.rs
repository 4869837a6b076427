//! Tests of `compare` and its HTML page.

use enfold::compare::compare;
use enfold::{GraphBuilder, Shape, Tensor, archive};

use crate::models::{mlp, normals};
use crate::space::Space;

fn compared(name: &str) -> (Space, Tensor) {
    let space = Space::new(name);
    space.save("mlp.enfold", &mlp());
    let x = space.mlp_data("x.safetensors", 64);
    space.ok("quantize mlp.enfold --calibrate x.safetensors --output q.enfold");
    (space, x)
}

#[test]
fn the_table_is_the_librarys() {
    let (space, x) = compared("the_table_is_the_librarys");
    let quantized = archive::load(space.path("q.enfold")).unwrap();
    let expected = compare(&mlp(), &quantized, &[x]).unwrap();
    assert_eq!(space.ok("compare mlp.enfold q.enfold --input x.safetensors"), expected.to_string());
    let json = space.json("compare mlp.enfold q.enfold --input x.safetensors --json");
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    assert_eq!(number(&json["output_sqnr_db"]), expected.output_sqnr_db);
    assert_eq!(number(&json["output_cosine"]), expected.output_cosine);
    let nodes = json["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), expected.nodes.len());
    assert_eq!(nodes[0]["name"].as_str().unwrap(), expected.ranked()[0].origin);
    assert_eq!(number(&nodes[0]["isolated_sqnr_db"]), expected.ranked()[0].isolated_sqnr_db);
    // Fewer rows give other numbers.
    let fewer = space.json("compare mlp.enfold q.enfold --input x.safetensors --json --rows 8");
    assert_eq!(fewer["rows"].as_u64(), Some(8));
    assert_ne!(fewer["output_sqnr_db"], json["output_sqnr_db"]);
}

#[test]
fn the_page_is_one_file_that_asks_for_nothing() {
    let (space, _) = compared("the_page_is_one_file_that_asks_for_nothing");
    let out = space.ok("compare mlp.enfold q.enfold --input x.safetensors --html report.html");
    assert!(out.ends_with("report: report.html\n"), "{out}");
    let html = space.read("report.html");
    for forbidden in ["http", "<script", "url(", "src=", "@import", "<head>&co", "//"] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    for part in [
        "block.fc1",
        "block.fc2",
        "&lt;head&gt;&amp;co",
        "gelu",
        "mlp.enfold",
        "q.enfold",
        "x.safetensors",
        "<link rel=\"icon\" href=\"data:,\">",
        "prefers-color-scheme: dark",
    ] {
        assert!(html.contains(part), "{part:?} is missing");
    }
    assert!(html.contains("<b>3 of 3</b>") && html.contains("No value is saturated."));
    // The page has one plot over all nodes, a histogram for each of five nodes, and one for each of three weights.
    assert_eq!(html.matches("<svg ").count(), 1 + 5 + 3);
    assert_eq!(html.matches("narrowest channel").count(), 3);
    assert_eq!(html.matches("<details").count(), 5);
    let (opened, closed) = (html.matches("<div").count(), html.matches("</div>").count());
    assert_eq!(opened, closed);
    // All placeholders of colours were replaced.
    assert!(!html.contains("#01010") && !html.contains("#05050"));
}

#[test]
fn many_nodes_stay_usable() {
    let space = Space::new("many_nodes_stay_usable");
    let mut g = GraphBuilder::new();
    let mut h = g.input("x", Shape::rows(12)).unwrap();
    for at in 0..130 {
        let w = Tensor::from_f32(&[12, 12], normals(at, 144, 0.5)).unwrap();
        h = g.linear(&format!("layers.{at}.fc"), h, w, None).unwrap();
        h = g.tanh(&format!("layers.{at}.tanh"), h).unwrap();
    }
    space.save("deep.enfold", &g.finish([h]).unwrap());
    space.mlp_data("x.safetensors", 32);
    space.ok("quantize deep.enfold --calibrate x.safetensors --output q.enfold");
    space.ok("compare deep.enfold q.enfold --input x.safetensors --html report.html");
    let html = space.read("report.html");
    assert!(html.contains("All 260 nodes, worst first") && html.contains("The worst 24 are open"));
    assert!(html.contains("The best 20 of 260 nodes have none here"));
    assert_eq!((html.matches("<details").count(), html.matches("\" open>").count()), (240, 24));
    assert!(html.len() < 3_000_000, "{} bytes", html.len());
}

#[test]
fn other_networks_are_refused() {
    let (space, _) = compared("other_networks_are_refused");
    let mut g = GraphBuilder::new();
    let x = g.input("other", Shape::rows(12)).unwrap();
    let y = g.relu("y", x).unwrap();
    space.save("other.enfold", &g.finish([y]).unwrap());
    let arguments = "compare other.enfold q.enfold --input x.safetensors --html r.html";
    space.fails(1, arguments, &["inputs differ", "other f32 [rows, 12]", "x f32 [rows, 12]"]);
}
