//! Lays the sources over each other: defaults, the file, the environment, the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::document::{Document, Entry, entries};
use super::given::{Given, Problem};
use super::schema::{self, Draft, Slot};
use super::{Config, Mistake, NamedSecrets, Source, Warning, check, named, read};

const CONFIG_VARIABLE: &str = "GEARWAY_CONFIG";
/// What follows is a secret's name.
const SECRET_VARIABLES: &str = "GEARWAY_SECRETS__";

/// Where a configuration is read from, the weaker before the stronger.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file that the command line names; without one `GEARWAY_CONFIG` names it, and without that there is none.
    pub file: Option<PathBuf>,
    /// The names and values of environment variables; what is not Gearway's is ignored.
    pub environment: Vec<(String, String)>,
    pub overrides: Overrides,
}

/// What the command line sets, as it was written there.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub data_dir: Option<String>,
    pub public_listen: Option<String>,
    pub admin_listen: Option<String>,
}

impl Sources {
    /// The process's own environment. A variable that is not UTF-8 becomes a mistake when it is read.
    #[must_use]
    pub fn of_this_process(file: Option<PathBuf>, overrides: Overrides) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .filter(|(name, _)| name.starts_with("GEARWAY_"))
            .collect();
        Self { file, environment, overrides }
    }

    /// The last of several variables of one name counts, as in a shell.
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The names of the variables only: their values hold secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.environment.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("environment", &names)
            .field("overrides", &self.overrides)
            .finish()
    }
}

impl Config {
    /// Reads every source and checks every value, those too that a stronger source replaces.
    ///
    /// # Errors
    /// All mistakes of all sources, in the order of the sources and of the file's lines.
    pub fn load(sources: &Sources) -> Result<(Self, Vec<Warning>), Vec<Mistake>> {
        let mut loading = Loading::default();
        loading.read_file(sources);
        loading.read_environment(sources);
        loading.read_command_line(&sources.overrides);
        loading.finish()
    }
}

/// What the sources have said so far.
#[derive(Default)]
struct Loading {
    draft: Draft,
    places: Places,
    /// The file could be read only in part, so that what seems to be missing may stand in the rest.
    incomplete: bool,
    mistakes: Vec<Mistake>,
    warnings: Vec<Warning>,
}

/// Where each key, and each section of the file, was given last, usable or not.
pub(super) type Places = BTreeMap<String, Source>;

impl Loading {
    fn read_file(&mut self, sources: &Sources) {
        let path = match (&sources.file, sources.variable(CONFIG_VARIABLE)) {
            (Some(path), _) => path.as_path(),
            (None, Some("")) => {
                let source = Source::Environment { variable: CONFIG_VARIABLE.to_owned() };
                let message = "must not be empty; unset it to use the defaults".to_owned();
                self.mistakes.push(Mistake { source, key: String::new(), message });
                return;
            }
            (None, Some(path)) => Path::new(path),
            (None, None) => return,
        };
        match std::fs::read(path) {
            Ok(bytes) => self.read_text(path, &bytes),
            Err(error) => {
                self.incomplete = true;
                let source = Source::File { path: path.to_owned(), at: None };
                let message = format!("cannot be read: {error}");
                self.mistakes.push(Mistake { source, key: String::new(), message });
            }
        }
    }

    fn read_text(&mut self, path: &Path, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let document = Document { path, text: &text };
        if let Err(error) = std::str::from_utf8(bytes) {
            self.incomplete = true;
            let source = document.source(Some(error.valid_up_to()));
            self.mistakes.push(Mistake { source, key: String::new(), message: "is not UTF-8".to_owned() });
            return;
        }
        let (table, errors) = DeTable::parse_recoverable(&text);
        self.incomplete = !errors.is_empty();
        self.mistakes.extend(document.syntax_mistakes(&errors));
        let unreliable = document.unreliable_lines(&errors);

        let mut seen = BTreeSet::new();
        for entry in entries(table.get_ref()) {
            let (path, problems) = match entry {
                Entry::Section(path, at) => {
                    self.places.insert(path, document.source(at));
                    continue;
                }
                Entry::Wrong(path, problem) => (path, vec![problem]),
                Entry::Value(slot, given) => {
                    (slot.path(), self.read(slot, given, document.source(given.at()), &mut seen))
                }
            };
            let mistakes = problems.iter().map(|problem| document.mistake(&path, problem));
            let meant = |line: Option<usize>| line.is_none_or(|line| !unreliable.contains(&line));
            self.mistakes.extend(mistakes.filter(|mistake| meant(mistake.source.line())));
        }
    }

    fn read_environment(&mut self, sources: &Sources) {
        let mut seen = BTreeSet::new();
        let mut known = BTreeSet::new();
        for (slot, variable) in schema::slots().filter_map(|slot| Some((slot, slot.variable()?))) {
            if let Some(text) = sources.variable(&variable) {
                let source = Source::Environment { variable: variable.clone() };
                let given = Given::Text(text);
                let problems = if text.contains(char::REPLACEMENT_CHARACTER) {
                    vec![given.problem("is not UTF-8")]
                } else {
                    self.read(slot, given, source.clone(), &mut seen)
                };
                self.add(&source, slot, problems);
            }
            known.insert(variable);
        }
        known.extend(self.read_secret_variables(sources));
        for (name, _) in &sources.environment {
            if name.starts_with("GEARWAY_") && name.contains("__") && !known.contains(name) {
                self.warnings.push(Warning {
                    source: Source::Environment { variable: name.clone() },
                    key: String::new(),
                    message: "names no key and is ignored".to_owned(),
                });
            }
        }
    }

    /// Reads the variables that give secrets of `[secrets]`, one by one over those of the file. Returns their names.
    fn read_secret_variables(&mut self, sources: &Sources) -> BTreeSet<String> {
        let is_secret =
            |name: &&str| name.len() > SECRET_VARIABLES.len() && name.starts_with(SECRET_VARIABLES);
        let variables: BTreeSet<&str> =
            sources.environment.iter().map(|(name, _)| name.as_str()).filter(is_secret).collect();
        let mut given_here = NamedSecrets::default();
        for variable in &variables {
            let (name, by_file) = read::split_file_suffix(&variable[SECRET_VARIABLES.len()..], "_FILE");
            let text = Given::Text(sources.variable(variable).unwrap_or_default());
            let read = if let Err(message) = named::check_name(name) {
                Err(text.problem(format!("what follows {SECRET_VARIABLES} {message}")).into())
            } else if given_here.contains(name) {
                Err(text.problem("gives a secret that another variable gives").into())
            } else if text.string().is_ok_and(|text| text.contains(char::REPLACEMENT_CHARACTER)) {
                Err(text.problem("is not UTF-8").into())
            } else {
                read::named_secret(text, by_file)
            };
            let source = Source::Environment { variable: (*variable).to_owned() };
            match read {
                Ok(values) => {
                    given_here.insert(name, Vec::new());
                    // A registration finds it by either spelling; this one is for people.
                    self.draft.config.secrets.insert(&name.to_ascii_lowercase(), values);
                }
                Err(problems) => self.mistakes.extend(problems.into_iter().map(|problem| Mistake {
                    source: source.clone(),
                    key: "secrets".to_owned(),
                    message: problem.message,
                })),
            }
            self.places.insert("secrets".to_owned(), source);
        }
        variables.into_iter().map(str::to_owned).collect()
    }

    fn read_command_line(&mut self, overrides: &Overrides) {
        let given = [
            ("data_dir", &overrides.data_dir),
            ("public.listen", &overrides.public_listen),
            ("admin.listen", &overrides.admin_listen),
        ];
        for slot in schema::slots() {
            if let Some((_, Some(text))) = given.iter().find(|(path, _)| *path == slot.path()) {
                let problems = self.read(slot, Given::Text(text), Source::CommandLine, &mut BTreeSet::new());
                self.add(&Source::CommandLine, slot, problems);
            }
        }
    }

    /// Reads one value and remembers where it stood. `seen` holds the secrets that this source gave already.
    fn read(
        &mut self,
        slot: Slot,
        given: Given<'_>,
        source: Source,
        seen: &mut BTreeSet<&'static str>,
    ) -> Vec<Problem> {
        let key = slot.key.path;
        self.places.insert(key.to_owned(), source);
        if !seen.insert(key) {
            return vec![given.problem(format!("give either {key} or {key}_file, not both"))];
        }
        read::read(slot, &mut self.draft, given).err().unwrap_or_default()
    }

    fn add(&mut self, source: &Source, slot: Slot, problems: Vec<Problem>) {
        let mistakes = problems.into_iter().map(|problem| Mistake {
            source: source.clone(),
            key: slot.path(),
            message: problem.message,
        });
        self.mistakes.extend(mistakes);
    }

    fn finish(mut self) -> Result<(Config, Vec<Warning>), Vec<Mistake>> {
        if !self.incomplete {
            let found = check::check(&mut self.draft, &self.places, &self.mistakes);
            self.mistakes.extend(found.mistakes);
            self.warnings.extend(found.warnings);
        }
        if self.mistakes.is_empty() {
            self.warnings.sort();
            Ok((self.draft.config, self.warnings))
        } else {
            self.mistakes.sort();
            Err(self.mistakes)
        }
    }
}
