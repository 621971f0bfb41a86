//! JSON Schemas of what a run leaves behind, made from the types that write it.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::document::{RunDocument, SCHEMA_VERSION};
use crate::lines::{RequestLine, StepLine, TelemetryLine};
use crate::store::{REQUESTS_FILE, RUN_FILE, STEPS_FILE, TELEMETRY_FILE};

/// The shape of one kind of file, or of each line of one.
#[derive(Debug, Clone, Copy)]
pub struct FileSchema {
    /// Short name, as on the command line.
    pub name: &'static str,
    /// The file in a run folder.
    pub file: &'static str,
    /// Each line of the file is one document.
    pub is_lines: bool,
    make: fn(&str) -> Value,
}

/// All files of a run folder that hold data.
pub const SCHEMAS: [FileSchema; 4] = [
    FileSchema {
        name: "run",
        file: RUN_FILE,
        is_lines: false,
        make: of::<RunDocument>,
    },
    FileSchema {
        name: "request",
        file: REQUESTS_FILE,
        is_lines: true,
        make: of::<RequestLine>,
    },
    FileSchema {
        name: "step",
        file: STEPS_FILE,
        is_lines: true,
        make: of::<StepLine>,
    },
    FileSchema {
        name: "telemetry",
        file: TELEMETRY_FILE,
        is_lines: true,
        make: of::<TelemetryLine>,
    },
];

impl FileSchema {
    /// The schema, draft 2020-12. Unknown keys are not valid; a key that costmark always writes
    /// is required.
    #[must_use]
    pub fn schema(&self) -> Value {
        let what = if self.is_lines { "each line of " } else { "" };
        (self.make)(&format!(
            "{what}{}, costmark schema version {SCHEMA_VERSION}",
            self.file
        ))
    }
}

fn of<T: JsonSchema>(title: &str) -> Value {
    let generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    let mut value = generator.into_root_schema_for::<T>().to_value();
    value["title"] = title.into();
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every object with named keys is closed: a key without a schema is an error.
    #[test]
    fn objects_are_closed() {
        fn check(value: &Value, path: &str, open: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if map.contains_key("properties")
                        && map.get("additionalProperties") != Some(&Value::Bool(false))
                    {
                        open.push(path.to_owned());
                    }
                    for (key, inner) in map {
                        check(inner, &format!("{path}/{key}"), open);
                    }
                }
                Value::Array(items) => {
                    for (i, inner) in items.iter().enumerate() {
                        check(inner, &format!("{path}/{i}"), open);
                    }
                }
                _ => {}
            }
        }
        for schema in SCHEMAS {
            let value = schema.schema();
            assert!(value["description"].is_string(), "{}", schema.name);
            let mut open = Vec::new();
            check(&value, schema.name, &mut open);
            assert_eq!(open, [""; 0]);
        }
    }
}
