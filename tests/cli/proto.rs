//! Writes ONNX files field by field, which no exporter would write.

use crate::space::Space;

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Encodes a field that holds a number.
fn number(tag: u64, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(tag << 3, &mut bytes);
    varint(value, &mut bytes);
    bytes
}

/// Encodes a field that holds a message, a text or bytes.
fn field(tag: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(tag << 3 | 2, &mut bytes);
    varint(content.as_ref().len() as u64, &mut bytes);
    bytes.extend_from_slice(content.as_ref());
    bytes
}

/// Encodes the declaration of a float value of shape `[rows, 4]`, with symbolic rows.
fn value(name: &str, rows: &str) -> Vec<u8> {
    let dims = [field(1, field(2, rows)), field(1, number(1, 4))].concat();
    let tensor = [number(1, 1), field(2, dims)].concat();
    [field(1, name), field(2, field(1, tensor))].concat()
}

impl Space {
    /// Writes a product of `x` and 4 × 4 weights of ones, which are external data in `location`.
    pub(crate) fn with_data_in(&self, name: &str, location: &str) {
        let weight = [
            number(1, 4),
            number(1, 4),
            number(2, 1),
            field(8, "w"),
            field(13, [field(1, "location"), field(2, location)].concat()),
            number(14, 1),
        ]
        .concat();
        let node = [field(1, "x"), field(1, "w"), field(2, "y"), field(4, "MatMul")].concat();
        let graph = [field(1, node), field(5, weight), field(11, value("x", "rows")), field(12, value("y", "rows"))];
        let model = [number(1, 8), field(7, graph.concat()), field(8, number(2, 17))].concat();
        std::fs::write(self.path(name), model).unwrap();
        std::fs::write(self.path(location), [0, 0, 128, 63].repeat(16)).unwrap();
    }

    /// Writes an `Add`, called `node`, of two inputs whose rows have different symbolic names, so that one of them needs a value.
    pub(crate) fn with_names(&self, name: &str, node: &str, dims: [&str; 2]) {
        let node = [field(1, "x"), field(1, "z"), field(2, "y"), field(3, node), field(4, "Add")].concat();
        let inputs = [field(11, value("x", dims[0])), field(11, value("z", dims[1]))].concat();
        let graph = [field(1, node), inputs, field(12, value("y", dims[0]))].concat();
        let model = [number(1, 8), field(7, graph), field(8, number(2, 17))].concat();
        std::fs::write(self.path(name), model).unwrap();
    }
}
