//! Rotary position embeddings: pairs of features are turned by an angle that grows with the position of a token.

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::onnx::attributes::int_attribute;
use crate::onnx::host::{Data, Host, Length, show};
use crate::onnx::value::Value;

operators! {
    "RotaryEmbedding" => Operator::nodes(|i, call| i.rotary_embedding(call, [1, 2], 3)),
}

impl Importer {
    /// Rotary embeddings; the numbers are those of the inputs for the caches and for the positions.
    pub(super) fn rotary_embedding(&mut self, call: &Call<'_>, caches: [usize; 2], positions: usize) -> Values {
        if call.node.float("scale", 1.0)? != 1.0 || call.node.int("is_packed_batching", 0)? != 0 {
            return Err("its scale is not 1, or its sequences are packed, which is not supported".to_owned());
        }
        let x = call.input(0)?;
        let features = match self.logical(x)[..] {
            [.., Length::Known(features)] => features as usize,
            ref lengths => return Err(format!("its input has shape {}", show(lengths))),
        };
        let is_flat = self.logical(x).len() == 3;
        let mut heads = usize::try_from(call.node.int("num_heads", 0)?).unwrap_or(0);
        let dim = usize::try_from(call.node.int("rotary_embedding_dim", 0)?).unwrap_or(0);
        let caches = [call.input(caches[0])?.clone(), call.input(caches[1])?.clone()];
        if is_flat && heads == 0 {
            // The caches have half the features of a head.
            let half = match self.logical(&caches[0]).last() {
                Some(&Length::Known(half @ 1..)) => half as usize,
                _ => return Err("its cache has no features".to_owned()),
            };
            heads = features / (2 * half);
        }
        let split = self.heads(call, "input", &x.clone(), heads)?;
        let interleaved = call.node.int("interleaved", 0)? != 0;
        let y = self.rotated(call, "rotary", &split, &caches, call.optional(positions).cloned(), dim, interleaved)?;
        if !is_flat {
            return Ok(vec![y]);
        }
        let moved = self.moved(call, "tokens", &y, &[0, 2, 1, 3])?;
        let Some(&Length::Known(tokens)) = self.logical(x).get(1) else {
            return Err("its tokens have no known number".to_owned());
        };
        Ok(vec![self.in_shape(call, "joined", &moved, &[0, tokens as usize, features])?])
    }

    /// Turns the first `dim` features of each head of `x` `[rows, heads, S, h]`, or all of them if that is 0. The caches hold cosines and
    /// sines by position, of which `positions` are taken: the first ones without it, unless the caches are given for each row.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn rotated(
        &mut self,
        call: &Call<'_>,
        part: &str,
        x: &Value,
        caches: &[Value; 2],
        positions: Option<Value>,
        dim: usize,
        interleaved: bool,
    ) -> Result<Value, String> {
        let lengths = self.logical(x);
        let [_, Length::Known(heads), Length::Known(tokens), Length::Known(features)] = lengths[..] else {
            return Err(format!("its input has shape {}", show(&lengths)));
        };
        let (heads, tokens, features) = (heads as usize, tokens as usize, features as usize);
        let dim = if dim == 0 { features } else { dim };
        if dim % 2 != 0 || dim > features {
            return Err(format!("it turns {dim} of {features} features of a head, expected an even number of them"));
        }
        let name = |of: &str| format!("{part}.{of}");
        let mut turned = Vec::with_capacity(2);
        for (of, cache) in [("cos", &caches[0]), ("sin", &caches[1])] {
            let mut factors = match &positions {
                Some(positions) if self.logical(positions).len() == 1 => {
                    let offset = self.host(positions)?.integers()?.first().copied().unwrap_or(0);
                    let offset = usize::try_from(offset).map_err(|_| format!("its position is {offset}"))?;
                    self.part_of(call, &name(&format!("{of}.part")), cache, 0, [offset, offset.saturating_add(tokens)])?
                }
                Some(positions) => {
                    self.emitted(call, &name(of), "Gather", &[cache, positions], &[int_attribute("axis", 0)])?
                }
                None if self.logical(cache).len() == 3 => cache.clone(),
                None => self.part_of(call, &name(&format!("{of}.part")), cache, 0, [0, tokens])?,
            };
            // `[rows, S, dim / 2]` for each head, or `[S, dim / 2]`.
            let lengths = self.logical(&factors);
            if !matches!(lengths[..], [.., Length::Known(s), Length::Known(half)] if s as usize == tokens && 2 * half as usize == dim)
            {
                return Err(format!(
                    "its factors have shape {} for {tokens} tokens and {dim} features",
                    show(&lengths)
                ));
            }
            if lengths.len() == 3 {
                factors = self.with_axes(call, &name(&format!("{of}.axes")), &factors, &[1])?;
            }
            turned.push(factors);
        }
        let own = self.part_of(call, &name("turned"), x, 3, [0, dim])?;
        let half = dim / 2;
        let [a, b] = if interleaved {
            let pairs = self.in_shape(call, &name("pairs"), &own, &[0, heads, tokens, half, 2])?;
            let mut parts = Vec::with_capacity(2);
            for at in 0..2 {
                let part = self.part_of(call, &name(&format!("pair{at}")), &pairs, 4, [at, at + 1])?;
                parts.push(self.in_shape(call, &name(&format!("half{at}")), &part, &[0, heads, tokens, half])?);
            }
            [parts.remove(0), parts.remove(0)]
        } else {
            let second = self.part_of(call, &name("half1"), &own, 3, [half, dim])?;
            [self.part_of(call, &name("half0"), &own, 3, [0, half])?, second]
        };
        let (cos, sin) = (&turned[0], &turned[1]);
        let mut product = |of: &str, x: &Value, y: &Value| self.emitted(call, &name(of), "Mul", &[x, y], &[]);
        let (a_cos, b_sin) = (product("a.cos", &a, cos)?, product("b.sin", &b, sin)?);
        let (a_sin, b_cos) = (product("a.sin", &a, sin)?, product("b.cos", &b, cos)?);
        let real = self.emitted(call, &name("real"), "Sub", &[&a_cos, &b_sin], &[])?;
        let imaginary = self.emitted(call, &name("imaginary"), "Add", &[&a_sin, &b_cos], &[])?;
        let last = int_attribute("axis", -1);
        let mut y = if interleaved {
            let mut columns = Vec::with_capacity(2);
            for (at, x) in [real, imaginary].iter().enumerate() {
                columns.push(self.with_axes(call, &name(&format!("column{at}")), x, &[4])?);
            }
            let pairs = self.emitted(
                call,
                &name("joined"),
                "Concat",
                &[&columns[0], &columns[1]],
                std::slice::from_ref(&last),
            )?;
            self.in_shape(call, &name("flat"), &pairs, &[0, heads, tokens, dim])?
        } else {
            self.emitted(call, &name("joined"), "Concat", &[&real, &imaginary], std::slice::from_ref(&last))?
        };
        if dim < features {
            let rest = self.part_of(call, &name("rest"), x, 3, [dim, features])?;
            y = self.emitted(call, &name("all"), "Concat", &[&y, &rest], &[last])?;
        }
        Ok(y)
    }

    /// The numbers `0..count` as `int64`.
    pub(super) fn counted(&mut self, count: usize) -> Result<Value, String> {
        self.budget.take(count, 8)?;
        Ok(Value::Host(Host::new(vec![count], Data::I64((0..count as i64).collect())).into()))
    }
}
