//! Writing JSON.

use std::fmt::Write;

/// A JSON value.
pub enum Json {
    Null,
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::Text(text.into())
    }
}

impl<T: Into<u64>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or(Json::Null, |v| Json::Number(v.into()))
    }
}

impl Json {
    /// The value as text on one line.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(value) => {
                let _ = write!(out, "{value}");
            }
            Json::Text(text) => {
                out.push('"');
                for c in text.chars() {
                    match c {
                        '"' | '\\' => out.extend(['\\', c]),
                        c if c < ' ' => {
                            let _ = write!(out, "\\u{:04x}", c as u32);
                        }
                        c => out.push(c),
                    }
                }
                out.push('"');
            }
            Json::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "," });
                    item.write(out);
                }
                out.push(']');
            }
            Json::Object(fields) => {
                out.push('{');
                for (i, (name, value)) in fields.iter().enumerate() {
                    let _ = write!(out, "{}\"{name}\":", if i == 0 { "" } else { "," });
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

#[test]
fn text_is_escaped() {
    let value = Json::Object(vec![
        ("a", Json::Text("x\"\\\n".into())),
        ("b", Json::List(vec![Json::Null, Json::Bool(true), Json::Number(5)])),
    ]);
    assert_eq!(value.render(), r#"{"a":"x\"\\\u000a","b":[null,true,5]}"#);
}
