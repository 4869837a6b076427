//! Attention: ONNX's own operator and those of ONNX Runtime, as matrix products and a softmax.

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::onnx::attributes::int_attribute;
use crate::onnx::host::{Data, Host, Length, show};
use crate::onnx::proto::data_type as ty;
use crate::onnx::value::{Kind, Value};

operators! {
    "Attention" => Operator::nodes(Importer::attention),
}

const MAX_HEADS: usize = 1 << 16;

/// Larger masks than any score, as ONNX Runtime masks the tokens to come.
const LOWEST: f32 = f32::MIN;

/// What the scores of queries `[rows, heads, S, …]` and keys `[rows, heads, L, …]` become before the softmax.
#[derive(Default)]
struct Scores {
    /// The factor of the products; 1 over the root of the length of a head if there is none.
    scale: Option<f32>,
    /// What is added.
    masks: Vec<Value>,
    /// The limit `c` of `c · tanh(score / c)` before the masks, if there is one.
    softcap: f32,
    /// Whether a query may see no key: then its result is 0.
    may_be_hidden: bool,
}

impl Importer {
    /// A known number of an axis.
    fn length(&self, x: &Value, axis: usize) -> Result<usize, String> {
        let lengths = self.logical(x);
        match lengths.get(axis) {
            Some(&Length::Known(length @ 1..)) => Ok(length as usize),
            _ => Err(format!("axis {axis} of {} has no known length", show(&lengths))),
        }
    }

    /// `[rows, S, heads · h]` as `[rows, heads, S, h]`; a value with four axes is that already.
    pub(super) fn heads(&mut self, call: &Call<'_>, part: &str, x: &Value, heads: usize) -> Result<Value, String> {
        match self.logical(x).len() {
            4 => Ok(x.clone()),
            3 => {
                let (tokens, features) = (self.length(x, 1)?, self.length(x, 2)?);
                if heads == 0 || features % heads != 0 {
                    return Err(format!("its {features} features are not those of {heads} heads"));
                }
                let split = self.in_shape(call, &format!("{part}.split"), x, &[0, tokens, heads, features / heads])?;
                self.moved(call, &format!("{part}.heads"), &split, &[0, 2, 1, 3])
            }
            axes => Err(format!("its input has {axes} axes, expected 3 or 4")),
        }
    }

    /// `[rows, heads, S, h]` as `[rows, S, heads · h]`.
    fn joined_heads(&mut self, call: &Call<'_>, x: &Value) -> Result<Value, String> {
        let (heads, tokens, features) = (self.length(x, 1)?, self.length(x, 2)?, self.length(x, 3)?);
        let moved = self.moved(call, "tokens", x, &[0, 2, 1, 3])?;
        self.in_shape(call, "joined", &moved, &[0, tokens, heads * features])
    }

    /// Keys or values `[rows, kv_heads, L, h]`, each for several heads of queries.
    fn repeated_heads(&mut self, call: &Call<'_>, part: &str, x: Value, heads: usize) -> Result<Value, String> {
        let (own, tokens, features) = (self.length(&x, 1)?, self.length(&x, 2)?, self.length(&x, 3)?);
        if own == heads {
            return Ok(x);
        }
        if !heads.is_multiple_of(own) {
            return Err(format!("it has {heads} heads of queries and {own} of keys, which do not divide them"));
        }
        if heads > MAX_HEADS {
            return Err(format!("it has {heads} heads, expected up to {MAX_HEADS}"));
        }
        let one = self.with_axes(call, &format!("{part}.one"), &x, &[2])?;
        let copies = vec![&one; heads / own];
        let several = self.emitted(call, &format!("{part}.several"), "Concat", &copies, &[int_attribute("axis", 2)])?;
        self.in_shape(call, &format!("{part}.repeated"), &several, &[0, heads, tokens, features])
    }

    /// `softmax(scale · q · kᵀ + masks) · v`; and the scores at four places: as products, with a soft limit, with masks, and as shares.
    fn attended(&mut self, call: &Call<'_>, q: &Value, k: &Value, v: &Value, s: Scores) -> Result<[Value; 5], String> {
        let root = (self.length(q, 3)? as f32).sqrt();
        let keys = self.moved(call, "keys", k, &[0, 1, 3, 2])?;
        let products = self.emitted(call, "products", "MatMul", &[q, &keys], &[])?;
        let factor = self.number_value(s.scale.unwrap_or(1.0 / root));
        let scaled = self.emitted(call, "scaled", "Mul", &[&products, &factor], &[])?;
        let mut limited = scaled.clone();
        if s.softcap > 0.0 {
            let [inverse, cap] = [1.0 / s.softcap, s.softcap].map(|value| self.number_value(value));
            let x = self.emitted(call, "softcap.scaled", "Mul", &[&scaled, &inverse], &[])?;
            let x = self.emitted(call, "softcap.tanh", "Tanh", &[&x], &[])?;
            limited = self.emitted(call, "softcap", "Mul", &[&x, &cap], &[])?;
        }
        let mut masked = limited.clone();
        for (at, mask) in s.masks.iter().enumerate() {
            masked = self.emitted(call, &format!("masked{at}"), "Add", &[&masked, mask], &[])?;
        }
        let mut shares = self.emitted(call, "shares", "Softmax", &[&masked], &[int_attribute("axis", -1)])?;
        let mut y = self.emitted(call, "values", "MatMul", &[&shares, v], &[])?;
        if s.may_be_hidden {
            let last = Value::Host(Host::new(vec![1], Data::I64(vec![-1])).into());
            let [zero, lowest] = [0.0, f32::NEG_INFINITY].map(|value| self.number_value(value));
            let most = self.emitted(call, "most", "ReduceMax", &[&masked, &last], &[int_attribute("keepdims", 1)])?;
            let hidden = self.emitted(call, "hidden", "Equal", &[&most, &lowest], &[])?;
            y = self.emitted(call, "values.seen", "Where", &[&hidden, &zero, &y], &[])?;
            if call.node.output.get(3).is_some_and(|output| !output.is_empty()) {
                shares = self.emitted(call, "shares.seen", "Where", &[&hidden, &zero, &shares], &[])?;
            }
        }
        Ok([y, scaled, limited, masked, shares])
    }

    /// A constant `[S, L]` of 0 where `sees(query, key)`, and of `other` elsewhere.
    fn pairs(&mut self, [s, l]: [usize; 2], other: f32, sees: impl Fn(usize, usize) -> bool) -> Result<Value, String> {
        self.budget.take(s.saturating_mul(l), 4)?;
        let mask = (0..s * l).map(|at| if sees(at / l, at % l) { 0.0 } else { other }).collect();
        Ok(Value::Host(Host::new(vec![s, l], Data::F32(mask)).into()))
    }

    /// 0 where a mask of integers is 1, and `other` where it is 0, as floats of the same shape.
    fn added_mask(&mut self, call: &Call<'_>, mask: &Value, other: f32) -> Result<Value, String> {
        let float = self.emitted(call, "mask.float", "Cast", &[mask], &[int_attribute("to", i64::from(ty::FLOAT))])?;
        let one = self.number_value(1.0);
        let inverted = self.emitted(call, "mask.inverted", "Sub", &[&one, &float], &[])?;
        let other = self.number_value(other);
        self.emitted(call, "mask.scaled", "Mul", &[&inverted, &other], &[])
    }

    /// The mask of keys that lie within the first `lengths[row]` of `l`, as 1 and 0 `[rows, l]`.
    fn within(&mut self, call: &Call<'_>, lengths: &Value, l: usize) -> Result<Value, String> {
        let Value::Run(run) = lengths else { return Err("its lengths of sequences are no input".to_owned()) };
        let Kind::Int(data_type) = run.kind else { return Err("its lengths of sequences are no integers".to_owned()) };
        self.budget.take(l, 8)?;
        let places = Host::new(vec![l], Data::I64((0..l as i64).collect())).typed(data_type);
        let column = self.with_axes(call, "lengths", lengths, &[1])?;
        self.emitted(call, "within", "Less", &[&Value::Host(places.into()), &column], &[])
    }

    /// A padding mask of ONNX Runtime as it is added to scores `[rows, heads, S, L]`: 1 and 0 for each key, for each query and key, or
    /// the numbers of keys.
    fn padding(&mut self, call: &Call<'_>, mask: &Value, l: usize, other: f32) -> Result<Value, String> {
        let lengths = self.logical(mask);
        let mask = match lengths[..] {
            [Length::Rows(1)] => self.within(call, mask, l)?,
            [_, Length::Known(n)] | [_, _, Length::Known(n)] if n as usize == l => mask.clone(),
            _ => return Err(format!("its mask has shape {}, which is not supported for {l} keys", show(&lengths))),
        };
        let axes: &[i64] = if self.logical(&mask).len() == 2 { &[1, 2] } else { &[1] };
        let added = self.added_mask(call, &mask, other)?;
        self.with_axes(call, "mask", &added, axes)
    }

    /// The masks and the scale that ONNX Runtime's operators share.
    fn shared_scores(
        &mut self,
        call: &Call<'_>,
        [mask, bias]: [usize; 2],
        [s, l]: [usize; 2],
    ) -> Result<Scores, String> {
        let scale = call.node.float("scale", 0.0)?;
        let mut scores = Scores { scale: (scale != 0.0).then_some(scale), ..Scores::default() };
        if let Some(mask) = call.optional(mask) {
            let other = call.node.float("mask_filter_value", -10000.0)?;
            scores.masks.push(self.padding(call, mask, l, other)?);
        }
        if call.node.int("unidirectional", 0)? != 0 {
            let causal = self.pairs([s, l], LOWEST, |query, key| key <= query)?;
            // Where both masks hide a key, ONNX Runtime takes the one of the tokens to come.
            let both = match scores.masks.pop() {
                Some(padding) => self.emitted(call, "masks", "Min", &[&padding, &causal], &[])?,
                None => causal,
            };
            scores.masks.push(both);
        }
        scores.masks.extend(call.optional(bias).cloned());
        Ok(scores)
    }

    fn no_past(call: &Call<'_>, inputs: &[usize]) -> Result<(), String> {
        match inputs.iter().find(|&&at| call.optional(at).is_some()) {
            Some(at) => Err(format!("its input {at} is a past state, which is not supported")),
            None => Ok(()),
        }
    }

    fn head_count(call: &Call<'_>, name: &str) -> Result<usize, String> {
        match call.node.int(name, 0)? {
            heads if (1..=MAX_HEADS as i64).contains(&heads) => Ok(heads as usize),
            heads => Err(format!("its {name} is {heads}, expected from 1 to {MAX_HEADS}")),
        }
    }

    /// ONNX Runtime's Attention: the projections of queries, keys and values are one product.
    pub(super) fn packed_attention(&mut self, call: &Call<'_>) -> Values {
        Self::no_past(call, &[4, 6])?;
        if call.node.int("do_rotary", 0)? != 0 {
            return Err("its do_rotary is 1; supported is 0".to_owned());
        }
        let heads = Self::head_count(call, "num_heads")?;
        let mut x = self.emitted(call, "projected", "MatMul", &[call.input(0)?, call.input(1)?], &[])?;
        if let Some(bias) = call.optional(2) {
            x = self.emitted(call, "projected.bias", "Add", &[&x, bias], &[])?;
        }
        let features = self.length(&x, 2)?;
        let sizes = match call.node.ints("qkv_hidden_sizes")? {
            None | Some([]) => vec![features / 3; 3],
            Some(sizes) => sizes.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect(),
        };
        if sizes.len() != 3 || sizes.iter().fold(0usize, |sum, &n| sum.saturating_add(n)) != features {
            return Err(format!("its {features} features are not those of queries, keys and values of {sizes:?}"));
        }
        let mut parts = Vec::with_capacity(3);
        let mut start = 0;
        for (part, size) in ["query", "key", "value"].into_iter().zip(sizes) {
            let own = self.part_of(call, part, &x, 2, [start, start + size])?;
            parts.push(self.heads(call, part, &own, heads)?);
            start += size;
        }
        let tokens = self.length(&x, 1)?;
        let scores = self.shared_scores(call, [3, 5], [tokens; 2])?;
        let [y, ..] = self.attended(call, &parts[0], &parts[1], &parts[2], scores)?;
        Ok(vec![self.joined_heads(call, &y)?])
    }

    pub(super) fn multi_head_attention(&mut self, call: &Call<'_>) -> Values {
        Self::no_past(call, &[6, 7, 8, 9])?;
        let heads = Self::head_count(call, "num_heads")?;
        let given: Vec<Value> = (0..3).filter_map(|at| call.optional(at).cloned()).collect();
        // Queries, keys and values, or keys and values, may be one value `[rows, L, heads, 3 or 2, h]`.
        let mut parts = Vec::with_capacity(3);
        for (at, x) in given.iter().enumerate() {
            if self.logical(x).len() != 5 {
                parts.push(x.clone());
                continue;
            }
            let (tokens, count) = (self.length(x, 1)?, self.length(x, 3)?);
            let features = self.length(x, 2)? * self.length(x, 4)?;
            for part in 0..count {
                let own = self.part_of(call, &format!("packed{at}.{part}"), x, 3, [part, part + 1])?;
                parts.push(self.in_shape(call, &format!("unpacked{at}.{part}"), &own, &[0, tokens, features])?);
            }
        }
        let [query, key, value] = &parts[..] else {
            return Err(format!("it has {} of queries, keys and values", parts.len()));
        };
        let mut states = Vec::with_capacity(3);
        let mut start = 0;
        for (part, x) in [("query", query), ("key", key), ("value", value)] {
            let mut x = x.clone();
            if let Some(bias) = call.optional(3) {
                if self.logical(&x).len() != 3 {
                    return Err("it adds a bias to keys or values that are split into heads already".to_owned());
                }
                let size = self.length(&x, 2)?;
                let own = self.part_of(call, &format!("{part}.bias"), bias, 0, [start, start + size])?;
                x = self.emitted(call, &format!("{part}.sum"), "Add", &[&x, &own], &[])?;
                start += size;
            }
            states.push(self.heads(call, part, &x, heads)?);
        }
        let [s, l] = [self.length(&states[0], 2)?, self.length(&states[1], 2)?];
        let scores = self.shared_scores(call, [4, 5], [s, l])?;
        let [y, ..] = self.attended(call, &states[0], &states[1], &states[2], scores)?;
        Ok(vec![self.joined_heads(call, &y)?])
    }

    /// Causal attention of the first tokens. Rows behind the end of a sequence are not specified, so that its lengths are not needed.
    pub(super) fn group_query_attention(&mut self, call: &Call<'_>) -> Values {
        Self::no_past(call, &[3, 4, 11, 12, 13, 14, 15, 16])?;
        for name in ["smooth_softmax", "sliding_window_cache", "qk_output", "kv_cache_bit_width"] {
            if call.node.int(name, 0)? > 0 {
                return Err(format!("its {name} is {}; supported is 0", call.node.int(name, 0)?));
            }
        }
        let (heads, kv_heads) = (Self::head_count(call, "num_heads")?, Self::head_count(call, "kv_num_heads")?);
        let mut parts: Vec<Value> = (0..3).filter_map(|at| call.optional(at).cloned()).collect();
        if let [packed] = &parts[..] {
            let packed = packed.clone();
            let features = self.length(&packed, 2)?;
            let all = heads.saturating_add(2 * kv_heads);
            if features % all != 0 {
                return Err(format!("its {features} features are not those of {heads} heads and of 2 · {kv_heads}"));
            }
            let size = features / all;
            let ends = [0, heads * size, (heads + kv_heads) * size, features];
            parts.clear();
            for (at, part) in ["query", "key", "value"].into_iter().enumerate() {
                parts.push(self.part_of(call, &format!("{part}.packed"), &packed, 2, [ends[at], ends[at + 1]])?);
            }
        }
        let [query, key, value] = &parts[..] else {
            return Err(format!("it has {} of queries, keys and values", parts.len()));
        };
        let mut q = self.heads(call, "query", query, heads)?;
        let mut k = self.heads(call, "key", key, kv_heads)?;
        let v = self.heads(call, "value", value, kv_heads)?;
        if call.node.int("do_rotary", 0)? != 0 {
            let interleaved = call.node.int("rotary_interleaved", 0)? != 0;
            let caches = [call.input(7)?.clone(), call.input(8)?.clone()];
            q = self.rotated(call, "query", &q, &caches, None, 0, interleaved)?;
            k = self.rotated(call, "key", &k, &caches, None, 0, interleaved)?;
        }
        let k = self.repeated_heads(call, "key", k, heads)?;
        let v = self.repeated_heads(call, "value", v, heads)?;
        let tokens = self.length(&q, 2)?;
        let scale = call.node.float("scale", 0.0)?;
        let softcap = call.node.float("softcap", 0.0)?;
        let mut scores = Scores { scale: (scale != 0.0).then_some(scale), softcap, ..Scores::default() };
        let window = call.node.int("local_window_size", -1)?;
        if window != -1 && window < 1 {
            return Err(format!("its local_window_size is {window}, expected -1 or at least 1"));
        }
        let causal = call.node.int("causal", 1)? != 0;
        let sees = |query: usize, key: usize| {
            (!causal || key <= query) && (window < 0 || (query as i64 - key as i64) < window)
        };
        let mask = self.pairs([tokens; 2], LOWEST, sees)?;
        scores.masks.push(mask);
        scores.masks.extend(call.optional(10).cloned());
        let [y, ..] = self.attended(call, &q, &k, &v, scores)?;
        Ok(vec![self.joined_heads(call, &y)?])
    }

    /// ONNX's Attention of opset 23.
    fn attention(&mut self, call: &Call<'_>) -> Values {
        let joined = self.logical(call.input(0)?).len() == 3;
        let heads = |name: &str, input: usize| match self.logical(call.input(input)?).len() {
            3 => Self::head_count(call, name),
            _ => self.length(call.input(input)?, 1),
        };
        let (q_heads, kv_heads) = (heads("q_num_heads", 0)?, heads("kv_num_heads", 1)?);
        let q = self.heads(call, "query", &call.input(0)?.clone(), q_heads)?;
        let mut states = Vec::with_capacity(2);
        for (at, part) in [(1, "key"), (2, "value")] {
            let mut x = self.heads(call, part, &call.input(at)?.clone(), kv_heads)?;
            if let Some(past) = call.optional(at + 3) {
                let axis = int_attribute("axis", 2);
                x = self.emitted(call, &format!("{part}.present"), "Concat", &[past, &x], &[axis])?;
            }
            states.push(x);
        }
        let present = states.clone();
        let v = self.repeated_heads(call, "value", states.remove(1), q_heads)?;
        let k = self.repeated_heads(call, "key", states.remove(0), q_heads)?;
        let [s, l] = [self.length(&q, 2)?, self.length(&k, 2)?];
        let scale = if call.node.has("scale") { Some(call.node.float("scale", 1.0)?) } else { None };
        let mut scores = Scores { scale, softcap: call.node.float("softcap", 0.0)?, ..Scores::default() };
        if let Some(mask) = call.optional(3) {
            let lengths = self.logical(mask);
            if lengths.last() != Some(&Length::Known(l as i64)) {
                return Err(format!("its mask has shape {}, expected {l} keys on the last axis", show(&lengths)));
            }
            let bools = match mask {
                Value::Run(run) => matches!(run.kind, Kind::Bool | Kind::Int(_)),
                _ => self.type_of(mask) == ty::BOOL,
            };
            let mask = mask.clone();
            scores.may_be_hidden = true;
            scores.masks.push(if bools {
                let [zero, other] = [0.0, f32::NEG_INFINITY].map(|value| self.number_value(value));
                self.emitted(call, "mask", "Where", &[&mask, &zero, &other], &[])?
            } else {
                mask
            });
        }
        if call.node.int("is_causal", 0)? != 0 {
            if call.optional(6).is_some() {
                return Err(
                    "it is causal, and the numbers of keys differ between rows, which is not supported".to_owned()
                );
            }
            let past = call.optional(4).map_or(Ok(0), |past| self.length(past, 2))?;
            let causal = self.pairs([s, l], f32::NEG_INFINITY, |query, key| key <= query + past)?;
            scores.masks.push(causal);
        }
        if let Some(lengths) = call.optional(6) {
            scores.may_be_hidden = true;
            let within = self.within(call, &lengths.clone(), l)?;
            let within = self.with_axes(call, "within.axes", &within, &[1, 2])?;
            let [zero, other] = [0.0, f32::NEG_INFINITY].map(|value| self.number_value(value));
            let mask = self.emitted(call, "padding", "Where", &[&within, &zero, &other], &[])?;
            scores.masks.push(mask);
        }
        for name in ["left_window_size", "right_window_size"] {
            if call.node.int(name, -1)? != -1 {
                return Err(format!("its {name} is {}; supported is -1", call.node.int(name, -1)?));
            }
        }
        let [mut y, products, limited, masked, shares] = self.attended(call, &q, &k, &v, scores)?;
        if joined {
            y = self.joined_heads(call, &y)?;
        }
        let [key, value] = [0, 1].map(|at| present[at].clone());
        let scores = match call.node.int("qk_matmul_output_mode", 0)? {
            0 => products,
            1 => limited,
            2 => masked,
            3 => shares,
            mode => return Err(format!("its qk_matmul_output_mode is {mode}, expected from 0 to 3")),
        };
        Ok(vec![y, key, value, scores])
    }
}
