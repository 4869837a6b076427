//! ONNX files that no exporter writes, field by field.

use crate::space::Space;

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A field that holds a number.
fn number(tag: u64, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(tag << 3, &mut bytes);
    varint(value, &mut bytes);
    bytes
}

/// A field that holds a message, a text or bytes.
fn field(tag: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(tag << 3 | 2, &mut bytes);
    varint(content.as_ref().len() as u64, &mut bytes);
    bytes.extend_from_slice(content.as_ref());
    bytes
}

/// A float value of shape `[rows, 4]` with a name, and a name for its rows.
fn value(name: &str, rows: &str) -> Vec<u8> {
    let dims = [field(1, field(2, rows)), field(1, number(1, 4))].concat();
    let tensor = [number(1, 1), field(2, dims)].concat();
    [field(1, name), field(2, field(1, tensor))].concat()
}

impl Space {
    /// A product of `x` and 4 x 4 weights that lie in another file.
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

    /// `Add` of two inputs whose rows have different names, so that one needs a length; the node is called `node`.
    pub(crate) fn with_names(&self, name: &str, node: &str, dims: [&str; 2]) {
        let node = [field(1, "x"), field(1, "z"), field(2, "y"), field(3, node), field(4, "Add")].concat();
        let inputs = [field(11, value("x", dims[0])), field(11, value("z", dims[1]))].concat();
        let graph = [field(1, node), inputs, field(12, value("y", dims[0]))].concat();
        let model = [number(1, 8), field(7, graph), field(8, number(2, 17))].concat();
        std::fs::write(self.path(name), model).unwrap();
    }
}
