//! Reads the NumPy arrays of cases.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use half::f16;

/// An array of any type, with elements as f64.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    /// Whether the elements are floats, and not integers or booleans.
    pub(crate) is_float: bool,
    pub(crate) values: Vec<f64>,
}

/// Reads the arrays of an `.npz` file, by name.
pub(crate) fn read_npz(path: &Path) -> Result<BTreeMap<String, Array>, String> {
    let in_file = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(|e| in_file(&e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| in_file(&e))?;
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).map_err(|e| in_file(&e))?;
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).map_err(|e| in_file(&e))?;
        let name = member.name().trim_end_matches(".npy").to_owned();
        let array = parse(&bytes).ok_or_else(|| in_file(&format!("{name} is no row-major array of a known type")))?;
        arrays.insert(name, array);
    }
    Ok(arrays)
}

/// Parses one array in version 1 of the format: 10 bytes, the last two of which give the length of the header, then the header, then
/// the elements.
fn parse(bytes: &[u8]) -> Option<Array> {
    let start = 10 + usize::from(u16::from_le_bytes([*bytes.get(8)?, *bytes.get(9)?]));
    let (header, data) = (std::str::from_utf8(bytes.get(10..start)?).ok()?, bytes.get(start..)?);
    let after = |key: &str| header.split_once(&format!("'{key}': ")).map(|(_, rest)| rest);
    let inside = after("shape")?.strip_prefix('(')?.split_once(')')?.0;
    let lengths = inside.split(',').map(str::trim).filter(|length| !length.is_empty());
    let shape = lengths.map(|length| length.parse().ok()).collect::<Option<Vec<usize>>>()?;
    after("fortran_order")?.strip_prefix("False")?;
    let each =
        |size: usize, parse: &dyn Fn(&[u8]) -> Option<f64>| data.chunks(size).map(parse).collect::<Option<Vec<f64>>>();
    let values = match after("descr")?.split('\'').nth(1)? {
        "<f2" => each(2, &|b| Some(f16::from_le_bytes(b.try_into().ok()?).to_f64())),
        "<f4" => each(4, &|b| Some(f32::from_le_bytes(b.try_into().ok()?).into())),
        "<f8" => each(8, &|b| Some(f64::from_le_bytes(b.try_into().ok()?))),
        "<i4" => each(4, &|b| Some(i32::from_le_bytes(b.try_into().ok()?).into())),
        "<i8" => each(8, &|b| Some(i64::from_le_bytes(b.try_into().ok()?) as f64)),
        "|i1" => each(1, &|b| Some(i8::from_le_bytes(b.try_into().ok()?).into())),
        "|u1" | "|b1" => each(1, &|b| Some(b[0].into())),
        _ => None,
    }?;
    let is_float = header.contains("'<f");
    (values.len() == shape.iter().product::<usize>()).then_some(Array { shape, is_float, values })
}
