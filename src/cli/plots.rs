//! Draws plots as SVG that takes its colours from the page.

use anyhow::{Result, anyhow};
use enfold::compare::{Distribution, NodeComparison};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Placeholders for the page's colours, which [`themed`] replaces.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const ACCENT: RGBColor = RGBColor(3, 3, 3);
const SOFT: RGBColor = RGBColor(4, 4, 4);
const BAD: RGBColor = RGBColor(5, 5, 5);
const THEME: [(&str, &str); 5] = [
    ("#010101", "var(--muted)"),
    ("#020202", "var(--grid)"),
    ("#030303", "var(--accent)"),
    ("#040404", "var(--soft)"),
    ("#050505", "var(--bad)"),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The top of the plot of ratios. Higher ratios are drawn here, so that the low ones, which matter, keep their room.
pub(super) const MAX_DB: f64 = 100.0;

/// Draws the signal-to-noise ratio of every node in execution order: points for the node alone, a line for the whole graph up to it.
/// Numbers the worst nodes.
pub(super) fn sqnr(nodes: &[NodeComparison], worst: &[usize]) -> Result<String> {
    let capped = |db: f64| Some(db).filter(|db| db.is_finite()).map(|db| db.min(MAX_DB));
    let points: Vec<(f64, f64)> = series(nodes, |node| capped(node.isolated_sqnr_db));
    let so_far: Vec<(f64, f64)> = series(nodes, |node| capped(node.sqnr_db));
    let values = || points.iter().chain(&so_far).map(|point| point.1);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low > high { (0.0, 1.0) } else { ((low - 5.0).floor(), (high + 4.0).ceil()) };
    svg((920, 300), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(48)
            .build_cartesian_2d(0.5..nodes.len() as f64 + 0.5, low..high)
            .map_err(drawn)?;
        mesh(&mut chart, "node, in execution order", "dB")?;
        chart.draw_series(LineSeries::new(so_far.iter().copied(), SOFT.stroke_width(2))).map_err(drawn)?;
        let circle = |&(x, y): &(f64, f64)| Circle::new((x, y), 3, ACCENT.filled());
        chart.draw_series(points.iter().map(circle)).map_err(drawn)?;
        for (rank, &at) in worst.iter().enumerate() {
            let point = (at as f64 + 1.0, nodes[at].isolated_sqnr_db.min(MAX_DB));
            let style = ("sans-serif", 13).into_font().color(&BAD).pos(Pos::new(HPos::Center, VPos::Bottom));
            let label = EmptyElement::at(point)
                + Circle::new((0, 0), 5, BAD.filled())
                + Text::new((rank + 1).to_string(), (0, -7), style);
            chart.draw_series([label]).map_err(drawn)?;
        }
        Ok(())
    })
}

/// Draws the share of saturated values of every node in execution order.
pub(super) fn saturation(nodes: &[NodeComparison]) -> Result<String> {
    let shares = series(nodes, |node| node.saturated.map(|share| share * 100.0));
    let high = shares.iter().fold(0.1, |max: f64, share| max.max(share.1)) * 1.1;
    svg((920, 180), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(48)
            .build_cartesian_2d(0.5..nodes.len() as f64 + 0.5, 0f64..high)
            .map_err(drawn)?;
        mesh(&mut chart, "node, in execution order", "% of values")?;
        let bar = |&(x, y): &(f64, f64)| Rectangle::new([(x - 0.4, 0.0), (x + 0.4, y)], BAD.filled());
        chart.draw_series(shares.iter().map(bar)).map_err(drawn)?;
        Ok(())
    })
}

/// Draws a histogram, with counts on a logarithmic scale, and the range that quantized values can represent.
pub(super) fn histogram(values: &Distribution) -> Result<String> {
    let (min, max) = (f64::from(values.min), f64::from(values.max));
    let range = values.clipping.map(|c| (f64::from(c.widest.0), f64::from(c.widest.1)));
    let (mut left, mut right) = range.map_or((min, max), |(low, high)| (min.min(low), max.max(high)));
    let margin = ((right - left) * 0.04).max(f64::from(f32::MIN_POSITIVE));
    (left, right) = (left - margin, right + margin);
    let logs: Vec<f64> = values.counts.iter().map(|&count| (count as f64 + 1.0).log10()).collect();
    let top = logs.iter().copied().fold(0.1, f64::max) * 1.05;
    let mut outline = vec![(min, 0.0)];
    let width = if min < max { (max - min) / logs.len() as f64 } else { 0.0 };
    for (at, &log) in logs.iter().enumerate() {
        // A single value has no width; the margin makes it visible.
        let (from, to) = match width {
            0.0 => (min - margin / 4.0, min + margin / 4.0),
            width => (min + at as f64 * width, min + (at + 1) as f64 * width),
        };
        outline.extend([(from, log), (to, log)]);
    }
    outline.push((max, 0.0));
    svg((420, 170), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_right(14)
            .x_label_area_size(22)
            .y_label_area_size(4)
            .build_cartesian_2d(left..right, 0f64..top)
            .map_err(drawn)?;
        let small = ("sans-serif", 11).into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_labels(6)
            .x_label_formatter(&|v| number(*v, right - left))
            .label_style(small)
            .axis_style(GRID)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(drawn)?;
        chart.draw_series([Polygon::new(outline, ACCENT.filled())]).map_err(drawn)?;
        let line = |x: f64, width: u32| PathElement::new([(x, 0.0), (x, top)], BAD.stroke_width(width));
        if let Some((low, high)) = range {
            chart.draw_series([line(low, 2), line(high, 2)]).map_err(drawn)?;
        }
        if let Some((low, high)) = values.clipping.and_then(|c| c.narrowest) {
            chart.draw_series([line(f64::from(low), 1), line(f64::from(high), 1)]).map_err(drawn)?;
        }
        Ok(())
    })
}

/// Returns the place, counted from 1, and the value of each node that has a finite value.
fn series(nodes: &[NodeComparison], value: impl Fn(&NodeComparison) -> Option<f64>) -> Vec<(f64, f64)> {
    let point = |(at, node): (usize, &NodeComparison)| Some((at as f64 + 1.0, value(node).filter(|v| v.is_finite())?));
    nodes.iter().enumerate().filter_map(point).collect()
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn mesh(chart: &mut Chart<'_, '_>, x: &str, y: &str) -> Result<()> {
    let style = ("sans-serif", 12).into_font().color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc(x)
        .y_desc(y)
        .x_labels(12)
        .x_label_formatter(&place)
        .label_style(style.clone())
        .axis_desc_style(style)
        .axis_style(GRID)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(drawn)
}

/// Labels a tick with the place of a node, counted from 1. A tick between two nodes has no label.
fn place(at: &f64) -> String {
    if (at - at.round_ties_even()).abs() < 1e-6 { format!("{:.0}", at.abs()) } else { String::new() }
}

/// Labels a tick with as few digits as tell the ticks of a span apart.
fn number(value: f64, span: f64) -> String {
    let digits = (1.0 - span.max(f64::MIN_POSITIVE).log10()).ceil().clamp(0.0, 6.0) as usize;
    // Rounding errors can make a tick at 0 slightly negative.
    let value = if value.abs() < span * 1e-6 { 0.0 } else { value };
    if (1e-5..1e6).contains(&span) { format!("{value:.digits$}") } else { format!("{value:.1e}") }
}

fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(drawn)?;
    }
    Ok(themed(&text, size))
}

fn drawn<E: std::fmt::Debug>(error: E) -> anyhow::Error {
    anyhow!("a plot could not be drawn: {error:?}")
}

/// Replaces the drawing's colours by the page's, and its opening tag by one without a fixed size and a namespace.
fn themed(text: &str, (width, height): (u32, u32)) -> String {
    let inner = text.find('>').map_or(text, |end| &text[end + 1..]);
    let colours = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
    let inner = THEME.iter().fold(inner.replace('\n', ""), colours);
    format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">{inner}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks() {
        assert_eq!((place(&3.0), place(&2.5)), ("3".to_owned(), String::new()));
        assert_eq!(
            (number(-1e-17, 0.9), number(0.25, 0.9), number(120.0, 400.0)),
            ("0.00".into(), "0.25".into(), "120".into())
        );
        assert_eq!(number(3e-7, 1e-6), "3.0e-7");
    }

    #[test]
    fn colours_are_the_pages() {
        let values = Distribution::of(&[1.0, 2.0, 2.5], 4, None);
        let svg = histogram(&values).expect("drawn");
        assert!(svg.starts_with("<svg viewBox=") && svg.ends_with("</svg>") && svg.contains("var(--accent)"), "{svg}");
        assert!(!svg.contains("\"#"), "{svg}");
        // A distribution of one value has no width, and can be drawn.
        assert!(histogram(&Distribution::of(&[0.0; 3], 4, None)).is_ok());
    }
}
