//! Writes the HTML page of a comparison: one file without scripts, which loads nothing.

use std::collections::HashMap;

use anyhow::Result;
use enfold::compare::{Comparison, Distribution, NodeComparison, NodeDistributions};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::output::{count, printable, size};
use super::plots;

/// The most nodes whose histograms are open from the start.
const OPEN: usize = 24;
/// The most nodes that have histograms. More would make the page slow.
const DRAWN: usize = 240;
/// The most nodes that are marked in the plot.
const MARKED: usize = 5;

const STYLE: &str = include_str!("report/style.css");

/// One of the two models.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) name: String,
    pub(super) stage: String,
    pub(super) file_bytes: u64,
    pub(super) constant_bytes: u64,
    /// The number of linear layers and products of two activations.
    pub(super) layers: usize,
    /// The number of those that compute in integers.
    pub(super) int8_layers: usize,
}

/// The contents of the page.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) float: Side,
    pub(super) quantized: Side,
    pub(super) data: String,
    pub(super) rows: usize,
    pub(super) comparison: &'a Comparison,
    pub(super) distributions: &'a [NodeDistributions],
}

/// Renders the page as HTML.
pub(super) fn html(page: &Page<'_>) -> Result<String> {
    let nodes = &page.comparison.nodes;
    let ranked = page.comparison.ranked();
    let places: HashMap<&str, usize> = nodes.iter().enumerate().map(|(at, node)| (node.origin.as_str(), at)).collect();
    let lossy = ranked.iter().filter(|node| node.isolated_sqnr_db.is_finite());
    let marked: Vec<usize> = lossy.take(MARKED).filter_map(|node| places.get(node.origin.as_str()).copied()).collect();
    let title = format!("{} against {}", page.quantized.name, page.float.name);
    let title = printable(&title);
    Ok(document(
        &title,
        &html! {
            (tiles(page))
            (models(page))
            (signal_to_noise(nodes, &marked)?)
            (saturation(nodes)?)
            (table(&ranked, &places))
            (histograms(page, &ranked)?)
        },
    ))
}

/// A page with a title, which is its heading too.
pub(super) fn document(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                (body)
            }
        }
    };
    page.into_string() + "\n"
}

fn tiles(page: &Page<'_>) -> Markup {
    let comparison = page.comparison;
    let smaller = page.float.constant_bytes as f64 / page.quantized.constant_bytes.max(1) as f64;
    let tiles = [
        ("Output, signal to noise", db(comparison.output_sqnr_db), "of the worst output".to_owned()),
        ("Output, cosine", format!("{:.6}", comparison.output_cosine), "of the worst output".to_owned()),
        ("Parameters", size(page.quantized.constant_bytes), format!("{smaller:.1} times smaller")),
        (
            "Layers in int8",
            format!("{} of {}", page.quantized.int8_layers, page.quantized.layers),
            format!("{} compared", count(comparison.nodes.len(), "node")),
        ),
        ("Data", count(page.rows, "row"), printable(&page.data).into_owned()),
    ];
    html! {
        div.tiles {
            @for (what, value, more) in &tiles {
                div { span { (what) } b { (value) } span { (more) } }
            }
        }
    }
}

fn models(page: &Page<'_>) -> Markup {
    html! {
        div.scroll {
            table {
                tr { th { "Model" } th { "Form" } th.n { "File" } th.n { "Parameters" } th.n { "Layers" } }
                @for side in [&page.float, &page.quantized] {
                    tr {
                        td { (printable(&side.name)) }
                        td { (side.stage) }
                        td.n { (size(side.file_bytes)) }
                        td.n { (size(side.constant_bytes)) }
                        td.n { (side.layers) }
                    }
                }
            }
        }
    }
}

/// The plot of all nodes, with the marked ones numbered and listed.
fn signal_to_noise(nodes: &[NodeComparison], marked: &[usize]) -> Result<Markup> {
    Ok(html! {
        h2 { "Signal to noise by node" }
        p {
            "Points: each node alone, on the float model's values. Line: the whole model up to the node. "
            "Exact nodes are not drawn. Ratios above " (plots::MAX_DB) " dB are drawn at " (plots::MAX_DB) " dB."
        }
        p.worst {
            "Worst: "
            @if marked.is_empty() { "none, all nodes are exact" }
            @for (rank, &at) in marked.iter().enumerate() {
                @if rank > 0 { ", " }
                b { (rank + 1) } " " (printable(&nodes[at].origin))
            }
        }
        figure { (PreEscaped(plots::sqnr(nodes, marked)?)) }
    })
}

fn saturation(nodes: &[NodeComparison]) -> Result<Markup> {
    let quantized = nodes.iter().filter(|node| node.saturated.is_some()).count();
    let saturates = nodes.iter().any(|node| node.saturated.is_some_and(|share| share > 0.0));
    Ok(html! {
        h2 { "Saturation by node" }
        p {
            @if quantized == 0 {
                "No value has a range from calibration: dynamic ranges are computed at run time, and hold all values."
            } @else {
                "The share of the float model's values beyond the range that quantized values can represent, of the "
                (count(quantized, "node")) " whose values have a range from calibration."
            }
        }
        @if saturates {
            figure { (PreEscaped(plots::saturation(nodes)?)) }
        } @else if quantized > 0 {
            p { b { "No value is saturated." } }
        }
    })
}

/// Lists all nodes. `places` are those in execution order, as in the plots.
fn table(ranked: &[&NodeComparison], places: &HashMap<&str, usize>) -> Markup {
    html! {
        h2 { "All " (count(ranked.len(), "node")) ", worst first" }
        div.scroll {
            table {
                tr {
                    th.n { "#" }
                    th { "Node" }
                    th { "Op" }
                    @for name in ["Alone", "So far", "Weight", "MSE", "Cosine", "Saturated"] { th.n { (name) } }
                }
                @for (rank, node) in ranked.iter().enumerate() {
                    tr {
                        td.n { (places.get(node.origin.as_str()).map_or(0, |at| at + 1)) }
                        td {
                            @if rank < DRAWN {
                                a href={ "#n" (rank) } { (printable(&node.origin)) }
                            } @else {
                                (printable(&node.origin))
                            }
                        }
                        td { (node.op) }
                        td.n { (db(node.isolated_sqnr_db)) }
                        td.n { (db(node.sqnr_db)) }
                        td.n { (node.weight_sqnr_db.map_or("–".to_owned(), db)) }
                        td.n { (format!("{:.2e}", node.mse)) }
                        td.n { (format!("{:.6}", node.cosine)) }
                        td.n { (node.saturated.map_or("–".to_owned(), percent)) }
                    }
                }
            }
        }
    }
}

fn histograms(page: &Page<'_>, ranked: &[&NodeComparison]) -> Result<Markup> {
    let distributions: HashMap<&str, &NodeDistributions> =
        page.distributions.iter().map(|d| (d.origin.as_str(), d)).collect();
    let (all, drawn) = (ranked.len(), ranked.len().min(DRAWN));
    Ok(html! {
        h2 { "Histograms, worst first" }
        p {
            "Values of the float model; counts on a logarithmic scale. Thick red lines: the range that quantized values can represent. "
            "Thin red lines: that range of the channel where it is narrowest. "
            @if drawn > OPEN { "The worst " (OPEN) " are open, the others open at a click." }
            @if all > drawn { " The best " (all - drawn) " of " (all) " nodes have none here." }
        }
        @for (rank, node) in ranked.iter().take(drawn).enumerate() {
            details id={ "n" (rank) } open[rank < OPEN] {
                summary {
                    b { (printable(&node.origin)) } " " (node.op) " · alone " (db(node.isolated_sqnr_db)) " · saturated "
                    (node.saturated.map_or("–".to_owned(), percent))
                }
                div.pair {
                    @if let Some(node) = distributions.get(node.origin.as_str()) {
                        (figure("values", &node.activation)?)
                        @if let Some(weight) = &node.weight { (figure("weight", weight)?) }
                    }
                }
            }
        }
    })
}

/// Draws a histogram with its caption, or nothing if there are no values.
fn figure(what: &str, values: &Distribution) -> Result<Markup> {
    if values.counts.is_empty() {
        return Ok(html! {});
    }
    let number = |v: f32| match v.abs() {
        0.0 | 1e-3..1e5 => format!("{v:.4}"),
        _ => format!("{v:.3e}"),
    };
    Ok(html! {
        figure {
            (PreEscaped(plots::histogram(values)?))
            figcaption {
                (what) " " (number(values.min)) " … " (number(values.max))
                @if let Some(clipping) = values.clipping {
                    ", range " (number(clipping.widest.0)) " … " (number(clipping.widest.1))
                    @if let Some((_, narrowest)) = clipping.narrowest { ", narrowest channel ±" (number(narrowest)) }
                } @else {
                    ", no range from calibration"
                }
            }
        }
    })
}

fn db(value: f64) -> String {
    if value == f64::INFINITY { "exact".to_owned() } else { format!("{value:.2} dB") }
}

fn percent(share: f64) -> String {
    if share == 0.0 { "0 %".to_owned() } else { format!("{:.3} %", share * 100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        let name = "<a href=\"x\">&\u{1b}";
        assert_eq!(html! { (printable(name)) }.into_string(), "&lt;a href=&quot;x&quot;&gt;&amp;\\u{1b}");
    }

    #[test]
    fn ratios_and_shares() {
        assert_eq!((db(f64::INFINITY), db(30.0)), ("exact".to_owned(), "30.00 dB".to_owned()));
        assert_eq!((percent(0.0), percent(0.0125)), ("0 %".to_owned(), "1.250 %".to_owned()));
    }
}
