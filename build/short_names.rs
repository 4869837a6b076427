//! Short names for the shaders of a player: what a browser loads. Only names that WGSL declares for itself become short: functions that are
//! no entry points, constants of modules, and parameters and variables of functions. What the host names keeps its name. Functions and
//! constants have the same names in all shaders, since modules are composed of pieces.
//!
//! The build script and the tests have this file in common.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Sources of the host that write WGSL. The names in their string literals stay.
pub(crate) const WRITERS: [&str; 3] = [
    "src/gpu/kernels/elementwise/chain.rs",
    "src/gpu/kernels/elementwise/chain/link.rs",
    "src/gpu/kernels/function.rs",
];

/// A word, or any other character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token<'t> {
    text: &'t str,
    /// Whether a space is before it.
    apart: bool,
}

/// New names of functions and constants, by the old ones.
#[derive(Debug)]
pub(crate) struct ShortNames(HashMap<String, String>);

impl ShortNames {
    /// Finds the names of shaders without comments.
    pub(crate) fn new(shaders: &[String], writers: &[String]) -> Self {
        let (mut declared, mut kept, mut words) = (HashSet::new(), HashSet::new(), BTreeMap::<&str, usize>::new());
        for wgsl in shaders {
            let tokens = tokens(wgsl);
            tokens
                .iter()
                .filter(|token| is_word(token.text))
                .for_each(|word| *words.entry(word.text).or_default() += 1);
            let (mut is_entry, mut end) = (false, 0);
            for (at, token) in tokens.iter().enumerate() {
                is_entry |= token.text == "compute";
                match (token.text, tokens.get(at + 1)) {
                    ("fn", Some(name)) => {
                        if is_entry { &mut kept } else { &mut declared }.insert(name.text);
                        (is_entry, end) = (false, end_of_function(&tokens, at));
                    }
                    // Memory and access of a variable are words as well.
                    ("var", Some(Token { text: "<", .. })) => {
                        kept.extend(tokens[at..].iter().map(|token| token.text).take_while(|text| *text != ">"));
                    }
                    // The host sets it by its name, which may be a constant's in another shader.
                    ("override", Some(name)) => drop(kept.insert(name.text)),
                    ("const", Some(name)) if at >= end => drop(declared.insert(name.text)),
                    _ => (),
                }
            }
        }
        let literals = writers.iter().flat_map(|text| text.split('"').skip(1).step_by(2));
        kept.extend(literals.flat_map(tokens).map(|token| token.text));
        let mut names: Vec<&str> = declared.difference(&kept).copied().filter(|name| name.len() > 2).collect();
        // The most frequent names are the shortest.
        names.sort_by_key(|&name| (Reverse(words[name]), name));
        let free = (0..).flat_map(|end| letters().map(move |letter| format!("{letter}{end}")));
        let free = free.filter(|short| !words.contains_key(&**short));
        Self(names.into_iter().map(str::to_owned).zip(free).collect())
    }

    /// Gives the names of a shader, or of a piece of one, their short forms, and removes the spaces that nothing needs. Lines stay.
    pub(crate) fn shorten(&self, wgsl: &str) -> String {
        let tokens = tokens(wgsl);
        let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
        let mut short = String::with_capacity(wgsl.len());
        let (mut locals, mut end, mut in_struct) = (HashMap::new(), 0, false);
        for (at, token) in tokens.iter().enumerate() {
            if token.text == "fn" {
                end = end_of_function(&tokens, at);
                locals = self.locals(&tokens[at..end]);
            }
            in_struct = (in_struct || token.text == "struct") && token.text != "}";
            let before = [2, 1].map(|back| at.checked_sub(back).map_or("", text));
            // Fields, attributes, and what they name.
            let stays =
                in_struct && text(at + 1) == ":" || [".", "@"].contains(&before[1]) || before == ["builtin", "("];
            let local = locals.get(token.text).filter(|_| at < end && text(at + 1) != "(");
            let new = local.or_else(|| self.0.get(token.text)).filter(|_| !stays);
            let new = new.map_or(token.text, String::as_str);
            // Two words stay apart, and operators that would be another one together.
            let ends = [short.chars().last(), new.chars().next()].map(|c| c.unwrap_or('\n'));
            let operators = ends.iter().all(|&c| "+-*/%&|^!=<>".contains(c));
            if token.apart && (ends.iter().all(|&c| is_word_char(c)) || operators) {
                short.push(' ');
            }
            short.push_str(new);
        }
        short
    }

    /// Single letters for the parameters and the variables of a function, in their order.
    fn locals<'t>(&self, function: &[Token<'t>]) -> HashMap<&'t str, String> {
        let mut names: Vec<&str> = Vec::new();
        for (at, [token, name]) in function.array_windows().enumerate() {
            let declared = match (token.text, name.text) {
                ("let" | "const" | "var", name) => name,
                // An argument of an attribute is none.
                (name, ":") if is_word(name) && !["default", "case"].contains(&name) && at > 0 => name,
                _ => continue,
            };
            if is_word(declared) && !names.contains(&declared) {
                names.push(declared);
            }
        }
        let used = |letter: &String| function.iter().any(|token| token.text == letter) && !names.contains(&&**letter);
        let free: Vec<String> = letters().map(String::from).filter(|letter| !used(letter)).collect();
        names.into_iter().zip(free).collect()
    }
}

/// One behind the last token of the function whose `fn` is at `start`.
fn end_of_function(tokens: &[Token<'_>], start: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        depth += i32::from(token.text == "{") - i32::from(token.text == "}");
        if depth == 0 && token.text == "}" {
            return at + 1;
        }
    }
    tokens.len()
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut tokens, mut rest, mut apart) = (Vec::new(), text, false);
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c| !is_word_char(c)).unwrap_or(rest.len());
        let (text, behind) = rest.split_at(if word > 0 { word } else { first.len_utf8() });
        if text != " " {
            tokens.push(Token { text, apart });
        }
        (rest, apart) = (behind, text == " ");
    }
    tokens
}

fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

fn letters() -> impl Iterator<Item = char> {
    ('a'..='z').chain('A'..='Z')
}
