//! JSON in serde's data model.

use std::borrow::Cow;

use serde::de::value::U64Deserializer;
use serde::de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::error::Error;
use super::parser::Parser;
use super::raw::RAW;
use crate::values::{Quoted, decimal};

/// A value, of which only the text is in memory: it is read level by level, by what asks for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'t> {
    /// One value, as the grammar has it. For a field that is not there, its name, which is none.
    text: &'t str,
}

/// A field of an object.
type Field<'t> = (Cow<'t, str>, Value<'t>);

impl<'t> Value<'t> {
    const NULL: Value<'static> = Value::new("null");

    const fn new(text: &'t str) -> Self {
        Self { text }
    }

    /// Takes a text that holds one value.
    ///
    /// # Errors
    /// Returns an error that says where the text is no JSON.
    pub(crate) fn parse(text: &'t str) -> Result<Self, Error> {
        let mut parser = Parser::new(text);
        let value = parser.value()?;
        parser.end()?;
        Ok(Self::new(value))
    }

    /// The fields of an object, in the order of the text; `None` for other values.
    pub(crate) fn fields(self) -> Result<Option<Vec<Field<'t>>>, Error> {
        let mut parser = Parser::new(self.text);
        if !parser.takes(b'{') {
            return Ok(None);
        }
        let mut fields = Vec::new();
        while !parser.takes(b'}') {
            let name = parser.name()?;
            fields.push((name, Self::new(parser.value()?)));
            parser.takes(b',');
        }
        Ok(Some(fields))
    }

    fn first(self) -> u8 {
        self.text.as_bytes().first().copied().unwrap_or_default()
    }

    fn is_missing(self) -> bool {
        self.first().is_ascii_alphabetic() && !matches!(self.text, "null" | "true" | "false")
    }

    fn is_null(self) -> bool {
        self.text == "null"
    }

    /// The text of a string; `None` for other values.
    fn string(self) -> Result<Option<Cow<'t, str>>, Error> {
        (self.first() == b'"').then(|| Parser::new(self.text).string()).transpose()
    }

    #[cold]
    fn refused(self, expected: &dyn de::Expected) -> Error {
        let kind = match self.first() {
            _ if self.is_missing() => return Error::new(format!("missing field `{}`", self.text)),
            b'{' => "an object",
            b'[' => "an array",
            b'"' => "the string ",
            b'-' | b'0'..=b'9' => "the number ",
            _ => "",
        };
        let text = if kind.starts_with('a') { "" } else { self.text };
        Error::new(format!("{kind}{text} is not expected, but {expected}"))
    }

    fn number<T: std::str::FromStr>(self, expected: &dyn de::Expected) -> Result<T, Error> {
        if matches!(self.first(), b'-' | b'0'..=b'9') {
            return self.text.parse().map_err(|_| self.refused(expected));
        }
        Err(self.refused(expected))
    }

    fn float<T>(self, parse: fn(&str) -> Option<T>, expected: &dyn de::Expected) -> Result<T, Error> {
        let is_number = matches!(self.first(), b'-' | b'0'..=b'9');
        is_number.then(|| parse(self.text)).flatten().ok_or_else(|| self.refused(expected))
    }

    fn number_f32(self, expected: &dyn de::Expected) -> Result<f32, Error> {
        self.float(|text| decimal::parse_f32(text).filter(|number| number.is_finite()), expected)
    }

    fn number_f64(self, expected: &dyn de::Expected) -> Result<f64, Error> {
        self.float(|text| decimal::parse_f64(text).filter(|number| number.is_finite()), expected)
    }

    fn elements(self, expected: &dyn de::Expected) -> Result<Elements<'t>, Error> {
        let mut parser = Parser::new(self.text);
        if parser.takes(b'[') { Ok(Elements { parser }) } else { Err(self.refused(expected)) }
    }

    fn named(self, names: &'static [&'static str], expected: &dyn de::Expected) -> Result<Fields<'t>, Error> {
        let fields = self.fields()?.ok_or_else(|| self.refused(expected))?;
        for name in names {
            if fields.iter().filter(|(field, _)| field == name).count() > 1 {
                return Err(Error::new(format!("duplicate field `{name}`")));
            }
        }
        Ok(Fields { fields, names, missing: None })
    }

    fn variant(self, variants: &'static [&'static str], expected: &dyn de::Expected) -> Result<Variant<'t>, Error> {
        let (name, content) = match (self.string()?, self.fields()?) {
            // No content is no text.
            (Some(name), _) => (name, Value::new("")),
            (_, Some(fields)) => match <[_; 1]>::try_from(fields) {
                Ok([only]) => only,
                Err(fields) => return Err(Error::new(format!("an object of {} fields is no variant", fields.len()))),
            },
            _ => return Err(self.refused(expected)),
        };
        match variants.iter().position(|variant| name == *variant) {
            Some(index) => Ok(Variant { index: index as u64, content }),
            None => Err(Error::new(format!("unknown variant {}", Quoted(&name)))),
        }
    }
}

/// Methods of numbers, which a visitor compares with the range of its type.
macro_rules! numbers {
    ($($method:ident $visit:ident $read:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = self.$read(&visitor)?;
            visitor.$visit(number)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Value<'_> {
    type Error = Error;

    numbers! {
        deserialize_i8 visit_i64 number;
        deserialize_i16 visit_i64 number;
        deserialize_i32 visit_i64 number;
        deserialize_i64 visit_i64 number;
        deserialize_u8 visit_u64 number;
        deserialize_u16 visit_u64 number;
        deserialize_u32 visit_u64 number;
        deserialize_u64 visit_u64 number;
        deserialize_f32 visit_f32 number_f32;
        deserialize_f64 visit_f64 number_f64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        Err(self.refused(&visitor))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.text {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(self.refused(&visitor)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.string()? {
            Some(text) => visitor.visit_str(&text),
            None => Err(self.refused(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_missing() || self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_unit() } else { Err(self.refused(&visitor)) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        if name != RAW {
            visitor.visit_newtype_struct(self)
        } else if self.is_missing() {
            Err(self.refused(&visitor))
        } else {
            visitor.visit_str(self.text)
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut elements = self.elements(&visitor)?;
        let value = visitor.visit_seq(&mut elements)?;
        if elements.parser.takes(b']') {
            Ok(value)
        } else {
            Err(Error::new("an array has too many elements".to_owned()))
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let fields = self.fields()?.ok_or_else(|| self.refused(&visitor))?;
        visitor.visit_map(Map { fields: fields.into_iter(), value: Value::NULL })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.first() == b'[' {
            return self.deserialize_seq(visitor);
        }
        let mut fields = self.named(names, &visitor)?;
        let value = visitor.visit_seq(&mut fields);
        value.map_err(|error| fields.explain(error))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant = self.variant(variants, &visitor)?;
        visitor.visit_enum(variant)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf tuple_struct identifier ignored_any
    }
}

/// The elements of an array that are not read yet.
struct Elements<'t> {
    parser: Parser<'t>,
}

impl<'t> Elements<'t> {
    fn next(&mut self) -> Result<Option<Value<'t>>, Error> {
        if self.parser.next() == Some(b']') {
            return Ok(None);
        }
        let element = self.parser.value()?;
        self.parser.takes(b',');
        Ok(Some(Value::new(element)))
    }
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.next()?.map(|element| seed.deserialize(element)).transpose()
    }
}

/// The fields of a map that are not read yet.
struct Map<'t> {
    fields: std::vec::IntoIter<Field<'t>>,
    /// That of the last key.
    value: Value<'t>,
}

impl<'de> MapAccess<'de> for Map<'_> {
    type Error = Error;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((name, value)) = self.fields.next() else { return Ok(None) };
        self.value = value;
        seed.deserialize(de::value::StrDeserializer::new(&name)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.value)
    }
}

/// The fields of a struct, in the order of its declaration.
struct Fields<'t> {
    fields: Vec<Field<'t>>,
    /// Those that are not read yet.
    names: &'static [&'static str],
    /// The last that was not there, and that no `Option` takes.
    missing: Option<&'t str>,
}

impl<'t> Fields<'t> {
    /// The next field, which may not be there.
    fn next(&mut self) -> Option<Value<'t>> {
        let (&name, rest) = self.names.split_first()?;
        self.names = rest;
        let found = self.fields.iter().find(|(field, _)| *field == name);
        Some(found.map_or(Value::new(name), |(_, value)| *value))
    }

    /// The error of a struct that found too few fields.
    #[cold]
    fn explain(&self, error: Error) -> Error {
        match self.missing {
            Some(field) if error.is_length() => Error::new(format!("missing field `{field}`")),
            _ => error.of_part(),
        }
    }
}

impl<'de> SeqAccess<'de> for Fields<'_> {
    type Error = Error;

    // Once for each type of a field, not for each field.
    #[inline(never)]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(field) = self.next() else { return Ok(None) };
        match seed.deserialize(field) {
            Ok(value) => Ok(Some(value)),
            // The visitor takes the default, or refuses the length.
            Err(_) if field.is_missing() => {
                self.missing = Some(field.text);
                Ok(None)
            }
            Err(error) => Err(error.of_part()),
        }
    }
}

/// A variant of an enum, by its number.
struct Variant<'t> {
    index: u64,
    content: Value<'t>,
}

impl<'de, 't> EnumAccess<'de> for Variant<'t> {
    type Error = Error;
    type Variant = Value<'t>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Value<'t>), Error> {
        Ok((seed.deserialize(U64Deserializer::<Error>::new(self.index))?, self.content))
    }
}

impl<'de> VariantAccess<'de> for Value<'_> {
    type Error = Error;

    // Once, not for each variant.
    #[inline(never)]
    fn unit_variant(self) -> Result<(), Error> {
        if self.text.is_empty() || self.is_null() { Ok(()) } else { Err(self.refused(&"null")) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        if self.text.is_empty() {
            return Err(Error::new("a variant lacks its content".to_owned()));
        }
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_seq(self, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, names: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_struct(self, "", names, visitor)
    }
}
