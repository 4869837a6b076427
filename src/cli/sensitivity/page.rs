//! The HTML page of a sensitivity: one file without scripts, which loads nothing.

use enfold::quantize::accuracy::{ChoiceError, LayerSensitivities, LayerSensitivity, Plan};
use maud::{Markup, html};

use super::{SHOWN, total};
use crate::cli::output::{count, printable, size};
use crate::cli::report::document;

/// The ratio, in dB, whose bar is empty: everything above is as good as float.
const BEST_DB: f64 = 80.0;

/// Renders the page.
pub(super) fn html(model: &str, rows: usize, found: &LayerSensitivities, plan: Option<&Plan>) -> String {
    let title = format!("Sensitivity of {model}");
    let title = printable(&title);
    let mut ranked: Vec<&LayerSensitivity> = found.layers.iter().collect();
    let worst = |layer: &LayerSensitivity| layer.errors.iter().map(|error| error.output_noise).fold(0.0, f64::max);
    ranked.sort_by(|a, b| worst(b).total_cmp(&worst(a)));
    document(
        &title,
        &html! {
            p {
                (count(found.layers.len(), "layer")) ", measured on " (count(rows, "row")) ". Each number is the ratio of signal to "
                "quantization noise at the worst output, in dB, if this layer alone has the choice; below it the bytes of its weight. "
                "A longer bar is more noise. The most sensitive layers come first."
            }
            @if let Some(plan) = plan { (chosen(found, plan)) }
            div.scroll {
                table {
                    tr {
                        th { "Layer" }
                        @for choice in SHOWN { th { (choice.to_string()) } }
                        th.n { "float" }
                        @if plan.is_some() { th { "Choice" } }
                    }
                    @for layer in ranked {
                        tr {
                            td { (printable(&layer.name)) }
                            @for choice in SHOWN {
                                @match layer.errors.iter().find(|error| error.choice == choice) {
                                    Some(error) => { (bar(layer, error)) }
                                    None => { td { "–" } }
                                }
                            }
                            td.n { (size(layer.elements as u64 * 4)) }
                            @if let Some(plan) = plan {
                                td { b { (plan.layers.get(&layer.name).map(ToString::to_string).unwrap_or_default()) } }
                            }
                        }
                    }
                }
            }
        },
    )
}

fn chosen(found: &LayerSensitivities, plan: &Plan) -> Markup {
    let (noise, bytes) = total(found, plan);
    html! {
        p {
            "The choices add up to " b { (format!("{:.1} dB", ChoiceError::to_db(noise))) } " and " b { (size(bytes as u64)) }
            " of weights."
        }
    }
}

/// A cell with a bar whose length falls with the ratio.
fn bar(layer: &LayerSensitivity, error: &ChoiceError) -> Markup {
    let db = ChoiceError::to_db(error.output_noise);
    let length = (100.0 * (1.0 - db / BEST_DB)).clamp(1.0, 100.0);
    let number = if db.is_finite() { format!("{db:.1}") } else { "exact".to_owned() };
    html! {
        td {
            (number)
            div style=(format!("background: currentColor; opacity: 0.45; height: 0.4em; width: {length:.0}%; min-width: 1px")) {}
            small { (size(error.choice.bytes(layer.elements) as u64)) }
        }
    }
}
