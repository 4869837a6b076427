//! Products that read the same weight or the same quantized values.

use super::*;

/// Layers one after another that read the same weight, as each kind of product, from shared quantized values or from one dequantize
/// node.
fn products(rank: usize, dynamic: bool, one_dequantize: bool, per_channel: bool) -> Graph {
    let mut g = GraphBuilder::new();
    let dims = [1, 3];
    let mut x = g.input("x", Shape::batched(&dims[3 - rank..])).expect("an input");
    let codes = g.constant("w", Tensor::from_i8(&[3, 3], vec![1, -2, 3, 4, 5, -6, 7, 8, 9]).expect("lengths fit"));
    let codes = codes.expect("a constant");
    let of_channels = TensorQParams::per_channel(&[0.5, 0.25, 0.125], &[0, 0, 0], 0).expect("valid");
    let qparams = if per_channel { of_channels } else { per_tensor(0.125, 0) };
    let dequantize = |g: &mut GraphBuilder, name: &str| {
        g.node(name, Op::Dequantize(Dequantize { qparams: qparams.clone() }), &[codes]).expect("a node")
    };
    let shared = dequantize(&mut g, "shared");
    for i in 0..3 {
        let name = format!("x{i}");
        let read = if dynamic {
            let range = QuantRange::INT8;
            let choose = Op::ChooseQParams(ChooseQParams { qscheme: QScheme::per_tensor_affine(), range, eps: 0.001 });
            let pairs = g.node(&format!("{name}.pairs"), choose, &[x]).expect("a node");
            let codes = g
                .node(&format!("{name}.codes"), Op::QuantizeDynamic(QuantizeDynamic { range }), &[x, pairs])
                .expect("a node");
            g.node(&name, Op::DequantizeDynamic(DequantizeDynamic), &[codes, pairs]).expect("a node")
        } else {
            pair(&mut g, &name, x, per_tensor(0.125, 0), QuantRange::INT8)
        };
        let w = if one_dequantize { shared } else { dequantize(&mut g, &format!("w{i}")) };
        // A product of two values may read a constant too.
        x = if i == 2 && rank == 3 && !per_channel {
            g.matmul(&format!("y{i}"), read, w).expect("a product")
        } else {
            g.linear_nodes(&format!("y{i}"), read, w, None).expect("a layer")
        };
    }
    g.finish([x]).expect("a graph")
}

/// ONNX Runtime replaces quantized values and zero points of products by those of uint8, each once.
#[test]
fn no_two_products_read_the_same_codes_or_zero_point() {
    for (rank, dynamic) in [(2, false), (2, true), (3, false), (3, true)] {
        for (one_dequantize, per_channel) in [(true, true), (true, false), (false, true), (false, false)] {
            let read = |preset| {
                let graph = products(rank, dynamic, one_dequantize, per_channel);
                let graph = exported(&graph, &ExportOptions { preset, ..ExportOptions::default() });
                let mut read: [Vec<String>; 2] = Default::default();
                for product in graph
                    .node
                    .iter()
                    .filter(|node| ["Gemm", "MatMul", "MatMulInteger"].contains(&node.op_type.as_str()))
                {
                    let [codes, zero_point] = if product.op_type == "MatMulInteger" {
                        [1, 3].map(|at| product.input[at].clone())
                    } else {
                        let dequantize = maker(&graph, &product.input[1]);
                        assert_eq!(dequantize.op_type, "DequantizeLinear");
                        [0, 2].map(|at| dequantize.input[at].clone())
                    };
                    assert_eq!(initializer(&graph, &codes).raw_data.len(), 9);
                    read[0].push(codes);
                    read[1].push(zero_point);
                }
                assert_eq!(read[0].len(), 3);
                read.map(|names| names.into_iter().collect::<std::collections::HashSet<_>>().len())
            };
            let what = format!("rank {rank}, dynamic {dynamic}, one node {one_dequantize}, per channel {per_channel}");
            assert_eq!(read(Preset::OnnxRuntime), [3, 3], "{what}");
            if !dynamic {
                assert!(read(Preset::TensorRt)[0] < 3, "{what}: codes are shared where they may be");
            }
        }
    }
}
