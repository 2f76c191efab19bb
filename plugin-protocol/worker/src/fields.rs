//! Turns names and texts (a query, a form, path parameters) into a handler's own type, and says which of the
//! names is wrong. serde's formats for this lose the name.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

/// Why the fields do not make the type.
#[derive(Debug)]
pub(crate) struct FieldError {
    /// The field that is missing or wrong; absent when the type itself cannot be made of fields.
    pub(crate) field: Option<String>,
    pub(crate) reason: String,
}

/// Reads a struct or a map; several fields of one name make a list.
pub(crate) fn from_pairs<T: DeserializeOwned>(
    pairs: impl Iterator<Item = (String, String)>,
) -> Result<T, FieldError> {
    let mut fields: Vec<Field> = Vec::new();
    for (name, value) in pairs {
        match fields.iter_mut().find(|field| field.name == name) {
            Some(field) => field.values.push(value),
            None => fields.push(Field { name, values: vec![value] }),
        }
    }
    T::deserialize(Fields(fields))
}

/// Reads a struct or a map by name, a tuple by position, or the one segment that there is.
pub(crate) fn from_segments<T: DeserializeOwned>(
    segments: impl Iterator<Item = (String, String)>,
) -> Result<T, FieldError> {
    T::deserialize(Segments(segments.map(|(name, value)| Field { name, values: vec![value] }).collect()))
}

struct Field {
    name: String,
    values: Vec<String>,
}

struct Fields(Vec<Field>);

struct Segments(Vec<Field>);

impl de::Error for FieldError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self { field: None, reason: reason.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { field: Some(field.to_owned()), reason: "is missing".to_owned() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self { field: Some(field.to_owned()), reason: format!("is none of {}", expected.join(", ")) }
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self { field: Some(field.to_owned()), reason: "is given twice".to_owned() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field} {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for FieldError {}

impl<'de> Deserializer<'de> for Fields {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_map(MapDeserializer::new(self.0.into_iter().map(|field| (field.name.clone(), field))))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    /// Name and value of each field, in order of the names' first appearance.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let pairs = self.0.into_iter().flat_map(|Field { name, values }| {
            values.into_iter().map(move |value| vec![name.clone(), value])
        });
        visitor.visit_seq(SeqDeserializer::new(pairs))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit_struct tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

impl Segments {
    fn only(self) -> Result<Field, FieldError> {
        let count = self.0.len();
        let mut fields = self.0.into_iter();
        match (fields.next(), fields.next()) {
            (Some(field), None) => Ok(field),
            _ => {
                Err(de::Error::custom(format!("one path parameter is wanted where the handler has {count}")))
            }
        }
    }
}

macro_rules! only_segment {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
            self.only()?.$method(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Segments {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        Fields(self.0).deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_seq(SeqDeserializer::new(self.0.into_iter()))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, FieldError> {
        if self.0.len() != len {
            let count = self.0.len();
            return Err(de::Error::custom(format!(
                "{len} path parameters are wanted where the handler has {count}"
            )));
        }
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        self.only()?.deserialize_enum(name, variants, visitor)
    }

    only_segment! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string
    }

    forward_to_deserialize_any! { bytes byte_buf option unit unit_struct map struct identifier ignored_any }
}

impl Field {
    /// An error about this field, unless one below has a name already.
    fn blame<T>(name: String, result: Result<T, FieldError>) -> Result<T, FieldError> {
        result.map_err(|error| FieldError { field: error.field.or(Some(name)), reason: error.reason })
    }

    fn one(self) -> Result<(String, String), FieldError> {
        let count = self.values.len();
        let mut values = self.values.into_iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Ok((self.name, value)),
            _ => Err(FieldError { field: Some(self.name), reason: format!("is given {count} times") }),
        }
    }
}

impl<'de> IntoDeserializer<'de, FieldError> for Field {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty, $what:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
            let (name, text) = self.one()?;
            match text.parse::<$type>() {
                Ok(value) => Self::blame(name, visitor.$visit(value)),
                Err(_) => Err(FieldError { field: Some(name), reason: format!("is {text:?}, not {}", $what) }),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Field {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        if self.values.len() > 1 {
            return self.deserialize_seq(visitor);
        }
        let (name, text) = self.one()?;
        Self::blame(name, visitor.visit_string(text))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let (name, text) = self.one()?;
        Self::blame(name, visitor.visit_string(text))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let Self { name, values } = self;
        let each = values.into_iter().map(|value| Self { name: name.clone(), values: vec![value] });
        Self::blame(name.clone(), visitor.visit_seq(SeqDeserializer::new(each)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        let (name, text) = self.one()?;
        let variant: StringDeserializer<FieldError> = text.into_deserializer();
        Self::blame(name, visitor.visit_enum(variant))
    }

    parsed! {
        deserialize_bool visit_bool bool, "true or false";
        deserialize_i8 visit_i8 i8, "a whole number from -128 to 127";
        deserialize_i16 visit_i16 i16, "a whole number of 16 bits";
        deserialize_i32 visit_i32 i32, "a whole number of 32 bits";
        deserialize_i64 visit_i64 i64, "a whole number of 64 bits";
        deserialize_i128 visit_i128 i128, "a whole number of 128 bits";
        deserialize_u8 visit_u8 u8, "a whole number from 0 to 255";
        deserialize_u16 visit_u16 u16, "a whole number from 0 to 65535";
        deserialize_u32 visit_u32 u32, "a whole number of 32 bits, 0 or more";
        deserialize_u64 visit_u64 u64, "a whole number of 64 bits, 0 or more";
        deserialize_u128 visit_u128 u128, "a whole number of 128 bits, 0 or more";
        deserialize_f32 visit_f32 f32, "a number";
        deserialize_f64 visit_f64 f64, "a number";
        deserialize_char visit_char char, "a single character";
    }

    forward_to_deserialize_any! {
        bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>().into_iter()
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct All {
        text: String,
        number: i32,
        flag: bool,
        colour: Colour,
        optional: Option<u8>,
        absent: Option<u8>,
        list: Vec<u16>,
        #[serde(default)]
        missing: Vec<u16>,
    }

    #[test]
    fn every_kind_of_field_is_read() {
        let given = pairs(&[
            ("list", "1"),
            ("text", ""),
            ("number", "-3"),
            ("flag", "true"),
            ("colour", "red"),
            ("optional", "7"),
            ("list", "2"),
            ("unknown", "x"),
        ]);
        let expected = All {
            text: String::new(),
            number: -3,
            flag: true,
            colour: Colour::Red,
            optional: Some(7),
            absent: None,
            list: vec![1, 2],
            missing: vec![],
        };
        assert_eq!(from_pairs::<All>(given).unwrap(), expected);
    }

    #[derive(Debug, Deserialize)]
    struct One {
        #[expect(dead_code, reason = "only whether it can be read matters")]
        a: u8,
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (given, text) in [
            (&[][..], "a is missing"),
            (&[("a", "x")], "a is \"x\", not a whole number from 0 to 255"),
            (&[("a", "256")], "a is \"256\", not a whole number from 0 to 255"),
            (&[("a", "1"), ("a", "2")], "a is given 2 times"),
        ] {
            let error = from_pairs::<One>(pairs(given)).unwrap_err();
            assert_eq!((error.field.as_deref(), error.to_string().as_str()), (Some("a"), text));
        }
    }

    #[test]
    fn maps_and_pairs_are_read() {
        let given = [("a", "1"), ("b", "2")];
        let map: HashMap<String, u8> = from_pairs(pairs(&given)).unwrap();
        assert_eq!(map, HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]));
        let list: Vec<(String, String)> = from_pairs(pairs(&given)).unwrap();
        assert_eq!(list, pairs(&given).collect::<Vec<_>>());
    }

    #[test]
    fn segments_are_read_by_name_by_position_and_alone() {
        let given = [("year", "2026"), ("name", "x")];
        assert_eq!(from_segments::<(u16, String)>(pairs(&given)).unwrap(), (2026, "x".to_owned()));
        assert_eq!(from_segments::<u16>(pairs(&given[..1])).unwrap(), 2026);
        let map: HashMap<String, String> = from_segments(pairs(&given)).unwrap();
        assert_eq!(map["name"], "x");
        let error = from_segments::<(u16, u16)>(pairs(&given)).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("name"));
        assert_eq!(from_segments::<u16>(pairs(&given)).unwrap_err().field, None);
    }

    proptest! {
        #[test]
        fn numbers_survive(number: i64) {
            let text = number.to_string();
            prop_assert_eq!(from_segments::<i64>(pairs(&[("n", &text)])).unwrap(), number);
        }
    }
}
