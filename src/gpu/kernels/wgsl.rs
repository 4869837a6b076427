//! The WGSL that shader modules share: each equation once.

macro_rules! shared {
    ($($name:ident = $file:literal;)*) => {
        $(pub(crate) const $name: &str = include_str!(concat!("../../../shaders/shared/", $file, ".wgsl"));)*
    };
}

shared! {
    ADD = "add";
    BYTES = "bytes";
    DOT = "dot";
    ELEMENTS = "elements";
    F16 = "f16";
    FLOATS = "floats";
    FUNCTIONS = "functions";
    GRID = "grid";
    LOOK_UP = "look_up";
    QUANTIZE = "quantize";
    REQUANTIZE = "requantize";
    ROWS = "rows";
    STRIDED = "strided";
    SUBGROUP_REDUCE = "subgroup_reduce";
    THREAD = "thread";
    VECTORS = "vectors";
    WORDS = "words";
    WORKGROUP_REDUCE = "workgroup_reduce";
}
