//! The grammar of JSON.

use std::borrow::Cow;

use super::error::Error;

/// Arrays and objects inside each other.
const MAX_DEPTH: usize = 64;

/// Goes through a text from value to value.
#[derive(Debug)]
pub(super) struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    #[cold]
    fn error(&self, expected: &str) -> Error {
        Error::new(format!("JSON: expected {expected} at byte {}", self.at))
    }

    /// The next byte that is not blank, which stays.
    pub(super) fn next(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.at += blanks;
        rest.get(blanks).copied()
    }

    /// Takes a byte if it is the next.
    pub(super) fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.next() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// Refuses a text that goes on.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.next().map_or(Ok(()), |_| Err(self.error("the end")))
    }

    /// The text of the next value, without blanks around it.
    pub(super) fn value(&mut self) -> Result<&'t str, Error> {
        self.next();
        let start = self.at;
        self.skip(0)?;
        Ok(&self.text[start..self.at])
    }

    /// The name of the next field.
    pub(super) fn name(&mut self) -> Result<Cow<'t, str>, Error> {
        if self.next() != Some(b'"') {
            return Err(self.error("the name of a field"));
        }
        let name = self.string()?;
        if self.takes(b':') { Ok(name) } else { Err(self.error("`:`")) }
    }

    /// Goes past the next value, which is `depth` arrays and objects deep in others.
    fn skip(&mut self, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(self.error("fewer arrays and objects inside each other"));
        }
        match self.next() {
            Some(open @ (b'{' | b'[')) => {
                let (close, expected) = if open == b'{' { (b'}', "`,` or `}`") } else { (b']', "`,` or `]`") };
                self.at += 1;
                let mut is_first = true;
                while !self.takes(close) {
                    if !is_first && !self.takes(b',') {
                        return Err(self.error(expected));
                    }
                    is_first = false;
                    if open == b'{' {
                        self.name()?;
                    }
                    self.skip(depth + 1)?;
                }
                Ok(())
            }
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let words = ["null", "true", "false"];
                let word = words.into_iter().find(|word| self.text[self.at..].starts_with(word));
                self.at += word.ok_or_else(|| self.error("a value"))?.len();
                Ok(())
            }
        }
    }

    /// Takes digits, and returns their number.
    fn digits(&mut self) -> usize {
        let count = self.text.as_bytes()[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn number(&mut self) -> Result<(), Error> {
        let bytes = self.text.as_bytes();
        self.at += usize::from(bytes.get(self.at) == Some(&b'-'));
        let first = self.at;
        let whole = self.digits();
        // No number begins with a 0 that other digits follow.
        let mut is_number = whole == 1 || whole > 1 && bytes[first] != b'0';
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            is_number &= self.digits() > 0;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(bytes.get(self.at), Some(b'+' | b'-')));
            is_number &= self.digits() > 0;
        }
        if is_number { Ok(()) } else { Err(self.error("the digits of a number")) }
    }

    /// The next string, which begins here.
    pub(super) fn string(&mut self) -> Result<Cow<'t, str>, Error> {
        self.at += 1;
        let mut text = Cow::Borrowed("");
        loop {
            let rest = &self.text[self.at..];
            let length = rest.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ');
            let Some(length) = length else {
                self.at = self.text.len();
                return Err(self.error("the end of a string"));
            };
            text += &rest[..length];
            self.at += length + 1;
            match rest.as_bytes()[length] {
                b'"' => return Ok(text),
                b'\\' => text.to_mut().push(self.escaped()?),
                _ => return Err(self.error("no control character in a string")),
            }
        }
    }

    /// The character behind a backslash.
    fn escaped(&mut self) -> Result<char, Error> {
        let byte = self.text.as_bytes().get(self.at).copied();
        self.at += usize::from(byte.is_some_and(|byte| byte.is_ascii()));
        Ok(match byte {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte.into(),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let mut code = self.hex()?;
                if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with("\\u") {
                    self.at += 2;
                    if let second @ 0xdc00..0xe000 = self.hex()? {
                        code = 0x1_0000 + ((code - 0xd800) << 10) + (second - 0xdc00);
                    }
                }
                char::from_u32(code).ok_or_else(|| self.error("a character of Unicode"))?
            }
            _ => return Err(self.error("a character that can be escaped")),
        })
    }

    fn hex(&mut self) -> Result<u32, Error> {
        let digits = self.text.get(self.at..self.at + 4).filter(|digits| !digits.starts_with('+'));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4 * usize::from(code.is_some());
        code.ok_or_else(|| self.error("four hexadecimal digits"))
    }
}
