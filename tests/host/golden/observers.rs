//! Observers over several batches.

use enfold::quantize::{ObservedSpec, Observer, ObserverKind};
use enfold::values::{QScheme, QuantRange};

use super::file::Golden;

pub(super) fn compare(golden: &Golden) -> Result<(), String> {
    let ch_axis = usize::try_from(golden.int("ch_axis")?).map_err(|e| e.to_string())?;
    let qscheme = match golden.text("qscheme")? {
        "per_tensor_affine" => QScheme::per_tensor_affine(),
        "per_tensor_symmetric" => QScheme::per_tensor_symmetric(),
        "per_channel_affine" => QScheme::per_channel_affine(ch_axis),
        "per_channel_symmetric" => QScheme::per_channel_symmetric(ch_axis),
        other => return Err(format!("unknown scheme {other}")),
    };
    let observer = match golden.text("observer")? {
        "minmax" | "per_channel_minmax" => ObserverKind::MinMax,
        "moving_average_minmax" | "moving_average_per_channel_minmax" => ObserverKind::MOVING_AVERAGE,
        "histogram" => ObserverKind::Histogram,
        other => return Err(format!("unknown observer {other}")),
    };
    let range = QuantRange::new(golden.int("quant_min")?, golden.int("quant_max")?).map_err(|e| e.to_string())?;
    let spec = ObservedSpec { range, qscheme, observer, eps: golden.float("eps")? };
    let mut observer = Observer::new(spec).map_err(|e| e.to_string())?;
    for batch in 0..golden.int("batches")? {
        observer.observe(golden.tensor(&format!("in.x{batch}"))?).map_err(|e| e.to_string())?;
    }

    let seen = observer.min_max();
    close("min", &seen.iter().map(|r| r.0).collect::<Vec<_>>(), golden.f32s("out.min")?)?;
    close("max", &seen.iter().map(|r| r.1).collect::<Vec<_>>(), golden.f32s("out.max")?)?;
    if let Some(counts) = observer.histogram() {
        let expected = golden.f32s("out.histogram")?;
        let far = (0..expected.len()).find(|&at| (counts[at] - expected[at]).abs() > 0.2);
        if let Some(at) = far {
            return Err(format!("bin {at} holds {}, expected {}", counts[at], expected[at]));
        }
    }
    let qparams = observer.calculate_qparams().map_err(|e| e.to_string())?;
    let channels = qparams.channels();
    close("scale", &channels.iter().map(|q| q.scale()).collect::<Vec<_>>(), golden.f32s("out.scale")?)?;
    let zero_points: Vec<i32> = channels.iter().map(|q| q.zero_point()).collect();
    let expected = golden.i32s("out.zero_point")?;
    if zero_points != expected {
        return Err(format!("zero point {zero_points:?}, expected {expected:?}"));
    }
    Ok(())
}

/// Equal to 1e-6 of each.
pub(super) fn close(what: &str, got: &[f32], expected: &[f32]) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("{} of {what}, expected {}", got.len(), expected.len()));
    }
    match (0..got.len()).find(|&at| (got[at] - expected[at]).abs() > 1e-6 * expected[at].abs()) {
        Some(at) => Err(format!("{what} {at} is {:e}, expected {:e}", got[at], expected[at])),
        None => Ok(()),
    }
}
