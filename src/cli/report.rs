//! The page of a comparison: one file, no script, nothing from elsewhere.

use std::collections::HashMap;
use std::fmt::Write;

use anyhow::Result;
use enfold::compare::{Comparison, Distribution, NodeComparison, NodeDistributions};

use super::output::{count, shown, size};
use super::plots;

/// Nodes with histograms that are open from the start.
const OPEN: usize = 24;
/// Nodes with histograms at all: more would make the page slow.
const DRAWN: usize = 240;
/// Nodes marked in the plot.
const MARKED: usize = 5;

/// One of the two models.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) name: String,
    pub(super) stage: String,
    pub(super) file_bytes: u64,
    pub(super) constant_bytes: u64,
    /// Linear layers and products of two activations.
    pub(super) layers: usize,
    /// Those that compute in integers.
    pub(super) int8_layers: usize,
}

/// What the page shows.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) float: Side,
    pub(super) quantized: Side,
    pub(super) data: String,
    pub(super) rows: usize,
    pub(super) comparison: &'a Comparison,
    pub(super) distributions: &'a [NodeDistributions],
}

/// The page as HTML.
pub(super) fn html(page: &Page<'_>) -> Result<String> {
    let nodes = &page.comparison.nodes;
    let ranked = page.comparison.ranked();
    let place: HashMap<&str, usize> = nodes.iter().enumerate().map(|(at, node)| (node.origin.as_str(), at)).collect();
    let lossy = ranked.iter().filter(|node| node.isolated_sqnr_db.is_finite());
    let marked: Vec<usize> = lossy.take(MARKED).filter_map(|node| place.get(node.origin.as_str()).copied()).collect();

    let title = format!("{} against {}", page.quantized.name, page.float.name);
    let mut body = format!("<h1>{}</h1>\n{}", escaped(&title), header(page));
    let name = |(rank, &at): (usize, &usize)| format!("<b>{}</b> {}", rank + 1, escaped(&nodes[at].origin));
    let names: Vec<String> = marked.iter().enumerate().map(name).collect();
    let _ = write!(
        body,
        "<h2>Signal to noise by node</h2>\n<p>Points: each node alone, fed with the float model's values. Line: the whole model \
         up to the node. Exact nodes are not drawn, and what is above {} dB is drawn there.</p>\n<p class=\"worst\">Worst: {}</p>\n\
         <figure>{}</figure>\n",
        plots::MOST_DB,
        if names.is_empty() { "none, all is exact".to_owned() } else { names.join(", ") },
        plots::sqnr(nodes, &marked)?
    );
    let quantized = nodes.iter().filter(|node| node.saturated.is_some()).count();
    body.push_str("<h2>Saturation by node</h2>\n");
    let _ = match quantized {
        0 => writeln!(
            body,
            "<p>No value has a range from calibration: dynamic ranges are found at run time, and hold all.</p>"
        ),
        n => writeln!(
            body,
            "<p>The share of the float model's values beyond the smallest or largest code, of the {} whose values have a range from \
             calibration.</p>",
            count(n, "node")
        ),
    };
    match nodes.iter().any(|node| node.saturated.is_some_and(|share| share > 0.0)) {
        true => writeln!(body, "<figure>{}</figure>", plots::saturation(nodes)?)?,
        false if quantized > 0 => body.push_str("<p><b>No value is saturated.</b></p>\n"),
        false => {}
    }
    body.push_str(&table(&ranked, &place));
    histograms(&mut body, page, &ranked)?;
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escaped(&title)
    ))
}

fn header(page: &Page<'_>) -> String {
    let comparison = page.comparison;
    let mut text = String::from("<div class=\"tiles\">");
    let layers = format!("{} of {}", page.quantized.int8_layers, page.quantized.layers);
    let compared = format!("{} compared", count(comparison.nodes.len(), "node"));
    let smaller = page.float.constant_bytes as f64 / page.quantized.constant_bytes.max(1) as f64;
    for (what, value, more) in [
        ("Output, signal to noise", db(comparison.output_sqnr_db), "of the worst output".to_owned()),
        ("Output, cosine", format!("{:.6}", comparison.output_cosine), "of the worst output".to_owned()),
        ("Parameters", size(page.quantized.constant_bytes), format!("{smaller:.1} times smaller")),
        ("Layers in int8", layers, compared),
        ("Data", count(page.rows, "row"), page.data.clone()),
    ] {
        let (value, more) = (escaped(&value), escaped(&more));
        let _ = write!(text, "<div><span>{what}</span><b>{value}</b><span>{more}</span></div>");
    }
    text.push_str(
        "</div>\n<div class=\"scroll\"><table><tr><th>Model</th><th>Form</th><th class=\"n\">File</th>\
        <th class=\"n\">Parameters</th><th class=\"n\">Layers</th></tr>",
    );
    for side in [&page.float, &page.quantized] {
        let _ = write!(
            text,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escaped(&side.name),
            side.stage,
            size(side.file_bytes),
            size(side.constant_bytes),
            side.layers
        );
    }
    text + "</table></div>\n"
}

/// `place` is that of a node in execution order, as in the plots.
fn table(ranked: &[&NodeComparison], place: &HashMap<&str, usize>) -> String {
    let mut text =
        format!("<h2>All {}, worst first</h2>\n<div class=\"scroll\"><table>\n<tr>", count(ranked.len(), "node"));
    for (name, class) in [
        ("#", "n"),
        ("Node", ""),
        ("Op", ""),
        ("Alone", "n"),
        ("So far", "n"),
        ("Weight", "n"),
        ("MSE", "n"),
        ("Cosine", "n"),
        ("Saturated", "n"),
    ] {
        let _ = write!(text, "<th class=\"{class}\">{name}</th>");
    }
    text.push_str("</tr>\n");
    for (rank, node) in ranked.iter().enumerate() {
        let name = match rank < DRAWN {
            true => format!("<a href=\"#n{rank}\">{}</a>", escaped(&node.origin)),
            false => escaped(&node.origin),
        };
        let weight = node.weight_sqnr_db.map_or("–".to_owned(), db);
        let saturated = node.saturated.map_or("–".to_owned(), percent);
        let _ = writeln!(
            text,
            "<tr><td class=\"n\">{}</td><td>{name}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{weight}</td>\
             <td class=\"n\">{:.2e}</td><td class=\"n\">{:.6}</td><td class=\"n\">{saturated}</td></tr>",
            place.get(node.origin.as_str()).map_or(0, |at| at + 1),
            node.op,
            db(node.isolated_sqnr_db),
            db(node.sqnr_db),
            node.mse,
            node.cosine
        );
    }
    text + "</table></div>\n"
}

fn histograms(body: &mut String, page: &Page<'_>, ranked: &[&NodeComparison]) -> Result<()> {
    let of: HashMap<&str, &NodeDistributions> = page.distributions.iter().map(|d| (d.origin.as_str(), d)).collect();
    let (all, drawn) = (ranked.len(), ranked.len().min(DRAWN));
    let _ = write!(
        body,
        "<h2>Histograms, worst first</h2>\n<p>Values of the float model; counts on a logarithmic scale. Red lines: the range that \
         codes hold; thin ones: that of the channel with the narrowest. {}{}</p>\n",
        if drawn > OPEN { format!("The worst {OPEN} are open, the others open at a click.") } else { String::new() },
        if all > drawn { format!(" The best {} of {all} nodes have none here.", all - drawn) } else { String::new() }
    );
    for (rank, node) in ranked.iter().take(drawn).enumerate() {
        let open = if rank < OPEN { " open" } else { "" };
        let _ = write!(
            body,
            "<details id=\"n{rank}\"{open}><summary><b>{}</b> {} · alone {} · saturated {}</summary>\n<div class=\"pair\">",
            escaped(&node.origin),
            node.op,
            db(node.isolated_sqnr_db),
            node.saturated.map_or("–".to_owned(), percent)
        );
        if let Some(spread) = of.get(node.origin.as_str()) {
            figure(body, "values", &spread.activation)?;
            if let Some(weight) = &spread.weight {
                figure(body, "weight", weight)?;
            }
        }
        body.push_str("</div></details>\n");
    }
    Ok(())
}

fn figure(body: &mut String, what: &str, spread: &Distribution) -> Result<()> {
    if spread.counts.is_empty() {
        return Ok(());
    }
    let number = |v: f32| match v.abs() {
        0.0 | 1e-3..1e5 => format!("{v:.4}"),
        _ => format!("{v:.3e}"),
    };
    let mut caption = format!("{what} {} … {}", number(spread.min), number(spread.max));
    match spread.clipping {
        Some(clipping) => {
            let _ = write!(caption, ", codes {} … {}", number(clipping.widest.0), number(clipping.widest.1));
            if let Some((_, narrowest)) = clipping.narrowest {
                let _ = write!(caption, ", narrowest channel ±{}", number(narrowest));
            }
        }
        None => caption.push_str(", no range from calibration"),
    }
    write!(body, "<figure>{}<figcaption>{caption}</figcaption></figure>", plots::histogram(spread)?)?;
    Ok(())
}

fn db(value: f64) -> String {
    if value == f64::INFINITY { "exact".to_owned() } else { format!("{value:.2} dB") }
}

fn percent(share: f64) -> String {
    if share == 0.0 { "0 %".to_owned() } else { format!("{:.3} %", share * 100.0) }
}

/// Text of a model, which may hold anything.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in shown(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

const STYLE: &str = include_str!("report/style.css");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place() {
        assert_eq!(escaped("<a href='x'>\"&\u{1b}"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;\\u{1b}");
        assert_eq!(
            (db(f64::INFINITY), db(30.0), percent(0.0), percent(0.0125)),
            ("exact".to_owned(), "30.00 dB".to_owned(), "0 %".to_owned(), "1.250 %".to_owned())
        );
    }
}
