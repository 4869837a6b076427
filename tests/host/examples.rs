//! Every item of the flow that the front page shows has an example in its documentation.

use std::path::Path;

/// The items, by the files that hold them.
const ITEMS: [(&str, &[&str]); 18] = [
    ("graph/builder.rs", &["pub struct GraphBuilder"]),
    ("graph/weights.rs", &["pub struct Weights"]),
    ("quantize/config.rs", &["pub struct QuantizationConfig"]),
    ("quantize/quantizer.rs", &["pub trait Quantizer"]),
    ("quantize/wgpu_quantizer.rs", &["pub struct WgpuQuantizer"]),
    ("quantize/composable_quantizer.rs", &["pub struct ComposableQuantizer"]),
    ("quantize/prepare.rs", &["pub fn prepare(", "pub struct PreparedGraph", "pub fn observe<"]),
    ("quantize/convert.rs", &["pub struct ConvertOptions", "pub fn convert("]),
    ("quantize/to_integer.rs", &["pub fn to_integer("]),
    ("lower.rs", &["pub struct LowerOptions", "pub fn lower("]),
    ("cpu/engine.rs", &["pub struct Engine"]),
    ("gpu/options.rs", &["pub struct Options"]),
    (
        "gpu/engine.rs",
        &["pub async fn new(", "pub async fn load(", "pub async fn load_with_progress(", "pub async fn tune("],
    ),
    ("gpu/model.rs", &["pub async fn bind<", "pub async fn run<"]),
    ("gpu/run.rs", &["pub fn record(", "pub fn record_in(", "pub fn record_indirect(", "pub async fn timings("]),
    ("gpu/swap.rs", &["pub async fn replace_weights("]),
    ("gpu/readback.rs", &["pub struct Readback"]),
    ("gpu/texture.rs", &["pub struct TextureInput"]),
];

/// The documentation before an item; `None` if the text has no such item.
fn documentation(source: &str, item: &str) -> Option<String> {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let at = lines.iter().position(|line| line.starts_with(item))?;
    let before = lines[..at].iter().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
    Some(before.map(|line| format!("{line}\n")).collect())
}

#[test]
fn every_item_of_the_flow_has_an_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (file, items) in ITEMS {
        let source = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        for item in items {
            let text = documentation(&source, item).unwrap_or_else(|| panic!("{file} has no {item}"));
            assert!(text.contains("```"), "{file}: {item} has no example");
        }
    }
    let source = "/// Text.\n#[must_use]\npub fn one() {}\n\n/// ```\n/// one();\n/// ```\n    pub fn two() {}";
    assert_eq!(documentation(source, "pub fn one(").map(|text| text.contains("```")), Some(false));
    assert_eq!(documentation(source, "pub fn two(").map(|text| text.contains("```")), Some(true));
    assert_eq!(documentation(source, "pub fn three("), None);
}
