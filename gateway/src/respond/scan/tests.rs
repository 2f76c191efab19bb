use proptest::prelude::*;

use super::super::read_any;
use gearway_protocol::Base64Body;

use super::*;

/// What the scanner reads, the other reader reads to the same; whether it read anything.
fn agree(reply: &[u8]) -> bool {
    let reply = Bytes::copy_from_slice(reply);
    let mut scanned = false;
    for dialect in [Dialect::GearwayV1, Dialect::SkygearV1] {
        let Some(response) = scan(&reply, dialect) else { continue };
        let other = read_any(&reply, dialect);
        let Ok(other) = other else { panic!("{dialect:?} {reply:?}: {response:?}, {other:?}") };
        assert_eq!(response.status(), other.status(), "{reply:?}");
        let fields = |response: &Response<Bytes>| -> Vec<_> {
            response.headers().iter().map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        assert_eq!(fields(&response), fields(&other), "{reply:?}");
        assert_eq!(response.body(), other.body(), "{reply:?}");
        scanned = true;
    }
    scanned
}

#[test]
fn the_usual_shapes_are_scanned() {
    for reply in [
        r#"{"result":{"type":"text","value":"hello"}}"#,
        r#"{"result":{"type":"text","value":"caffè"}}"#,
        r#"{ "result" : { "value" : "" , "type" : "text" } } "#,
        r#"{"result":{"type":"response","status":201,"header":{"X-A":["1","2"],"Content-Length":["3"]},"body":"aGk="}}"#,
        r#"{"result": {"type": "response", "status": 204, "header": {}, "body": ""}}"#,
        r#"{"result":{"body":"aGk=","header":{"X-A":[]},"status":304,"type":"response"}}"#,
        r#"{"result":{"type":"response","status":200}}"#,
        "{\"result\":\t{\"status\":200,\r\n\"header\":{\"Content-Type\":[\"application/json\"]},\"body\":\"\"}}\n",
    ] {
        assert!(agree(reply.as_bytes()), "{reply}");
    }
}

#[test]
fn the_unusual_is_left_to_the_other_reader() {
    for reply in [
        "",
        "{",
        r#"{"result":{"type":"text","value":"a\nb"}}"#,
        r#"{"result":{"type":"text","value":"a"},"new":1}"#,
        r#"{"result":{"type":"text","value":"a"}}x"#,
        r#"{"result":{"type":"text","value":"a","status":200}}"#,
        r#"{"result":{"type":"text","type":"text","value":"a"}}"#,
        r#"{"result":{"type":"text","value":"a",}}"#,
        r#"{"result":{"type":"response","status":2000,"body":""}}"#,
        r#"{"result":{"type":"response","status":200.0,"body":""}}"#,
        r#"{"result":{"type":"response","status":600}}"#,
        r#"{"result":{"type":"response","status":200,"body":"aGk"}}"#,
        r#"{"result":{"type":"response","status":200,"body":null}}"#,
        r#"{"result":{"type":"response","status":200,"header":{"X-A":["é"]}}}"#,
        r#"{"result":{"type":"response","status":200,"header":{"X A":["1"]}}}"#,
        r#"{"result":{"type":"response","status":200,"header":{"X-A":["1",]}}}"#,
        r#"{"result":{"type":"json","value":{"a":1}}}"#,
        r#"{"error":{"code":1}}"#,
    ] {
        assert!(!agree(reply.as_bytes()), "{reply}");
    }
}

/// JSON as replies are made of, and beside it.
fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    let text =
        prop_oneof!["[ -~]{0,6}", "\\PC{0,3}", Just("aGVsbG8=".to_owned()), Just("\u{7f}\n".to_owned())];
    let name = prop_oneof![
        Just("X-A".to_owned()),
        Just("content-type".to_owned()),
        Just("Proxy-X".to_owned()),
        "[ -~]{0,3}"
    ];
    let header = prop::collection::btree_map(name, prop::collection::vec(text.clone(), 0..3), 0..3);
    let odd = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
        header.clone().prop_map(|header| json!(header)),
    ];
    let kind = prop_oneof![4 => Just("response"), 2 => Just("text"), 1 => Just("json"), 1 => Just("html")];
    let members = (
        prop::option::weighted(0.8, kind.prop_map(Value::from)),
        prop::option::weighted(0.4, text.clone().prop_map(Value::from)),
        prop::option::weighted(0.8, prop_oneof![9 => 190_u16..610, 1 => any::<u16>()].prop_map(Value::from)),
        prop::option::weighted(0.7, header.prop_map(|header| json!(header))),
        prop::option::weighted(
            0.7,
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..80)
                    .prop_map(|bytes| Value::from(Base64Body::encode(&bytes))),
                text.prop_map(Value::from),
            ],
        ),
    );
    (members, prop::option::weighted(0.1, (0..5_usize, odd))).prop_map(|(members, odd)| {
        let (kind, value, status, header, body) = members;
        let mut fields =
            [("type", kind), ("value", value), ("status", status), ("header", header), ("body", body)];
        if let Some((place, odd)) = odd {
            fields[place].1 = Some(odd);
        }
        let fields: serde_json::Map<_, _> =
            fields.into_iter().filter_map(|(name, field)| Some((name.to_owned(), field?))).collect();
        json!({ "result": fields })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_readers_agree_about_json(value in json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        agree(text.unwrap().as_bytes());
    }

    #[test]
    fn both_readers_agree_about_what_became_of_json(
        value in json(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            3 => prop::sample::select(&b"{}[]\",:\\ 0e.=\x00\x1f\x7f\x80\xff\t"[..]), 1 => any::<u8>(),
        ], 0..3_u8), 0..4),
    ) {
        let mut text = serde_json::to_vec(&value).unwrap();
        for (place, byte, how) in changes {
            let place = place.index(text.len());
            match how {
                0 => text[place] = byte,
                1 => text.insert(place, byte),
                _ if text.len() > 1 => drop(text.remove(place)),
                _ => {}
            }
        }
        agree(&text);
    }

    #[test]
    fn both_readers_agree_about_anything(reply in prop::collection::vec(any::<u8>(), 0..100)) {
        agree(&reply);
    }
}
