//! The order of functions in which gzip makes a wasm file small: it finds what it repeats within 32 KiB only.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use anyhow::{Context as _, Result};
use wasm_encoder::{Module, NameMap, NameSection, RawSection, SectionId};
use wasmparser::{Parser, Payload, TypeRef};

/// Bytes that repeat, at least.
const REPEATED: usize = 6;

/// What more functions than these have is everywhere, and says nothing.
const COMMON: usize = 20;

/// Bytes of the functions before one that gzip sees, nearly.
const WINDOW: usize = 28_000;

/// Bytes of a function that are its own, whatever is before it.
const OWN: usize = 150;

/// Gives the functions names by which they are in that order: `wasm-opt --reorder-functions-by-name` does the rest.
pub(crate) fn named_by_order(wasm: &[u8]) -> Result<Vec<u8>> {
    let (mut imports, mut bodies, mut module) = (0, Vec::new(), Module::new());
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.context("no wasm")?;
        match &payload {
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    imports += u32::from(matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                }
            }
            Payload::CodeSectionEntry(body) => bodies.push(&wasm[body.range()]),
            _ => (),
        }
        match payload.as_section() {
            Some((id, range)) if id != SectionId::Custom as u8 => drop(module.section(&raw(wasm, id, range))),
            _ => (),
        }
    }
    let mut names: Vec<(u32, String)> =
        (imports..).zip(ranks(&bodies)).map(|(function, rank)| (function, format!("{rank:06}"))).collect();
    names.sort_unstable();
    let mut map = NameMap::new();
    names.iter().for_each(|(function, name)| map.append(*function, name));
    let mut section = NameSection::new();
    section.functions(&map);
    module.section(&section);
    Ok(module.finish())
}

fn raw(wasm: &[u8], id: u8, range: Range<usize>) -> RawSection<'_> {
    RawSection { id, data: &wasm[range] }
}

/// The place of each function. Behind a function comes the one that has most in common with those before, for its length.
fn ranks(bodies: &[&[u8]]) -> Vec<usize> {
    let mut with: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (function, body) in bodies.iter().enumerate() {
        for bytes in body.windows(REPEATED) {
            let functions = with.entry(bytes).or_default();
            if functions.last() != Some(&function) {
                functions.push(function);
            }
        }
    }
    with.retain(|_, functions| (2..=COMMON).contains(&functions.len()));
    // What each function has in common with the window.
    let mut common = vec![0usize; bodies.len()];
    let mut in_window: HashMap<&[u8], usize> = HashMap::new();
    let mut window: VecDeque<usize> = VecDeque::new();
    let mut window_bytes = 0;
    let mut ranks = vec![usize::MAX; bodies.len()];
    for rank in 0..bodies.len() {
        let value = |&function: &usize| common[function] * 1_000_000 / (bodies[function].len() + OWN);
        let left = (0..bodies.len()).filter(|&function| ranks[function] == usize::MAX);
        let Some(next) = left.max_by_key(|function| (value(function), bodies[*function].len(), Reverse(*function)))
        else {
            break;
        };
        ranks[next] = rank;
        window.push_back(next);
        window_bytes += bodies[next].len();
        for bytes in bodies[next].windows(REPEATED) {
            let Some(functions) = with.get(bytes) else { continue };
            let count = in_window.entry(bytes).or_default();
            *count += 1;
            if *count == 1 {
                functions.iter().for_each(|&function| common[function] += 1);
            }
        }
        while window_bytes > WINDOW
            && let Some(first) = window.pop_front()
        {
            window_bytes -= bodies[first].len();
            for bytes in bodies[first].windows(REPEATED) {
                let (Some(functions), Some(count)) = (with.get(bytes), in_window.get_mut(bytes)) else { continue };
                *count -= 1;
                if *count == 0 {
                    functions.iter().for_each(|&function| common[function] -= 1);
                }
            }
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions that resemble each other are side by side, however they are mixed.
    #[test]
    fn similar_functions_are_neighbours() {
        let body = |family: u8, member: u8| -> Vec<u8> {
            let mut bytes: Vec<u8> =
                (0..2000u32).map(|i| (i.wrapping_mul(i).wrapping_mul(2_654_435_761) >> 13) as u8 ^ family).collect();
            bytes[1000] = member;
            bytes
        };
        let families = [17, 42, 99, 17, 99, 42, 42, 17, 99];
        let bodies: Vec<Vec<u8>> = families.iter().zip(0..).map(|(&family, member)| body(family, member)).collect();
        let ranks = ranks(&bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut order: Vec<(usize, u8)> = ranks.into_iter().zip(families).collect();
        order.sort_unstable();
        let mut order: Vec<u8> = order.into_iter().map(|(_, family)| family).collect();
        order.dedup();
        assert_eq!(order.len(), 3, "{order:?}");
    }
}
