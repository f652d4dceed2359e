//! One file of the house as a flat list of tokens, each with its line and whether it is test code; and the
//! paths that are written in it. Comments are no tokens; the bodies of macros are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// One file.
pub(crate) struct Source {
    /// From the root of the package, as in `src/fleet/mod.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Word,
    Sign,
    Literal,
}

#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) kind: Kind,
    pub(crate) line: usize,
    pub(crate) is_test: bool,
    /// Inline modules around it.
    pub(crate) depth: usize,
}

/// A path as it is written, with the braces of a `use` unfolded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) segments: Vec<String>,
    /// The name that a `use` gives it here.
    pub(crate) alias: Option<String>,
    pub(crate) is_use: bool,
    pub(crate) line: usize,
    pub(crate) is_test: bool,
    depth: usize,
}

/// Every `.rs` file under these folders, read once for all rules; a folder that is not there has none.
pub(crate) fn files(folders: &[&str]) -> impl Iterator<Item = &'static Source> {
    static ALL: LazyLock<Vec<Source>> = LazyLock::new(read_all);
    ALL.iter().filter(move |file| {
        folders
            .iter()
            .any(|folder| file.path.starts_with(&format!("{folder}/")))
    })
}

/// The program.
pub(crate) fn program() -> Vec<&'static Source> {
    let sources: Vec<_> = files(&["src"]).collect();
    assert!(50 < sources.len(), "the program is found");
    sources
}

fn read_all() -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches"] {
        walk(folder, &mut paths);
    }
    paths.retain(|path| path.ends_with(".rs"));
    let mut sources: Vec<_> = paths
        .iter()
        .map(|path| Source::new(path, &read(path)))
        .collect();
    let test_files: BTreeSet<_> = sources.iter().flat_map(Source::test_files).collect();
    let is_of_tests = |path: &str| test_files.iter().any(|test| path.starts_with(test));
    let is_test = |file: &&mut Source| !file.path.starts_with("src/") || is_of_tests(&file.path);
    for file in sources.iter_mut().filter(is_test) {
        file.tokens
            .iter_mut()
            .for_each(|token| token.is_test = true);
    }
    sources
}

/// A file of the package.
pub(crate) fn read(path: &str) -> String {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(whole).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file under a folder, sorted.
pub(crate) fn walk(folder: &str, into: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)) else {
        return;
    };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap()).collect();
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            walk(&path, into);
        } else {
            into.push(path);
        }
    }
}

/// Runs a rule on every file; fails with everything that it found.
pub(crate) fn inspect(
    sources: impl IntoIterator<Item = &'static Source>,
    rule: impl Fn(&Source) -> Vec<String>,
) {
    let found: Vec<_> = sources.into_iter().flat_map(rule).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Runs a rule on one snippet: what it says, without the place.
pub(crate) fn check(
    rule: impl Fn(&Source) -> Vec<String>,
    path: &str,
    snippet: &str,
    expected: &str,
) {
    let found = rule(&Source::new(path, snippet));
    let found: Vec<_> = found
        .iter()
        .map(|said| {
            said.split_once(": ")
                .map_or(said.as_str(), |(_, what)| what)
        })
        .collect();
    assert_eq!(found.join("; "), expected, "{path}: {snippet}");
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let stream: TokenStream = text
            .parse()
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut flat = Flat {
            tokens: Vec::new(),
            depth: 0,
        };
        flat.take(stream, false);
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens: flat.tokens,
        }
    }

    /// `src/ingress/grpc/watch.rs` is `[ingress, grpc, watch]`; the roots are empty.
    pub(crate) fn module(&self) -> Vec<String> {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let inner = inner.strip_suffix(".rs").unwrap_or(inner);
        let mut parts: Vec<_> = inner.split('/').map(str::to_owned).collect();
        if parts.last().is_some_and(|last| last == "mod")
            || parts == ["lib"]
            || parts == ["main"]
            || parts == ["openclaw"]
        {
            parts.pop();
        }
        parts
    }

    /// Says what is wrong, and where.
    pub(crate) fn says(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }

    /// What the program is made of, without its tests.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &Token)> {
        self.tokens
            .iter()
            .enumerate()
            .filter(|(_, token)| !token.is_test)
    }

    /// True when these tokens stand there.
    pub(crate) fn stands(&self, at: usize, texts: &[&str]) -> bool {
        let here = self.tokens.get(at..at + texts.len());
        here.is_some_and(|here| {
            here.iter()
                .map(|token| token.text.as_str())
                .eq(texts.iter().copied())
        })
    }

    /// Every path that is written here.
    pub(crate) fn paths(&self) -> Vec<Written> {
        let (mut found, mut at, mut is_use) = (Vec::new(), 0, false);
        while at < self.tokens.len() {
            let token = &self.tokens[at];
            let continues = 0 < at && [".", "::"].contains(&self.tokens[at - 1].text.as_str());
            match token.text.as_str() {
                "use" => is_use = true,
                ";" => is_use = false,
                _ if token.kind == Kind::Word && !continues => {
                    at = self.unfold(at, &[], is_use, &mut found);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        found
    }

    /// Reads one path; returns where it ends.
    fn unfold(
        &self,
        mut at: usize,
        prefix: &[String],
        is_use: bool,
        found: &mut Vec<Written>,
    ) -> usize {
        let (start, mut segments) = (at, prefix.to_vec());
        loop {
            segments.push(self.tokens[at].text.clone());
            at += 1;
            if !self.stands(at, &["::"]) {
                break;
            }
            if self.stands(at + 1, &["{"]) {
                at += 2;
                while !self.stands(at, &["}"]) {
                    let is_word = self.tokens[at].kind == Kind::Word;
                    at = if is_word {
                        self.unfold(at, &segments, is_use, found)
                    } else {
                        at + 1
                    };
                }
                return at + 1;
            }
            if self
                .tokens
                .get(at + 1)
                .is_none_or(|token| token.kind != Kind::Word)
            {
                break;
            }
            at += 1;
        }
        if segments.last().is_some_and(|last| last == "self") && 1 < segments.len() {
            segments.pop();
        }
        let alias = (is_use && self.stands(at, &["as"])).then(|| self.tokens[at + 1].text.clone());
        let Token {
            line,
            is_test,
            depth,
            ..
        } = self.tokens[start];
        at += if alias.is_some() { 2 } else { 0 };
        found.push(Written {
            segments,
            alias,
            is_use,
            line,
            is_test,
            depth,
        });
        at
    }

    /// The path from the root of the crate, when it leads into it.
    pub(crate) fn within_crate(&self, path: &Written) -> Option<Vec<String>> {
        let mut segments = path.segments.iter().map(String::as_str).peekable();
        let mut from = match *segments.peek()? {
            "crate" => {
                segments.next();
                Vec::new()
            }
            "self" | "super" => {
                let inline = std::iter::repeat_n("_".to_owned(), path.depth);
                self.module().into_iter().chain(inline).collect()
            }
            _ => return None,
        };
        while let Some(step) = segments.next_if(|segment| ["self", "super"].contains(segment)) {
            if step == "super" {
                from.pop();
            }
        }
        from.extend(segments.map(str::to_owned));
        Some(from)
    }

    /// What is written, by the name that `use` has given it; the path itself when it has not.
    pub(crate) fn resolved(&self, paths: &[Written], path: &Written) -> Vec<Vec<String>> {
        // What a test brings in is not there for the program.
        let brought = paths
            .iter()
            .filter(|known| known.is_use && known.is_test <= path.is_test)
            .filter(|known| known.alias.as_deref() != Some("_"));
        let named = brought.filter(|known| {
            known.alias.as_ref().or(known.segments.last()) == path.segments.first()
        });
        let whole = named.map(|known| [&known.segments[..], &path.segments[1..]].concat());
        let whole: Vec<_> = whole.collect();
        if whole.is_empty() || path.is_use {
            vec![path.segments.clone()]
        } else {
            whole
        }
    }

    /// The files of `#[cfg(test)] mod name;`, and the folders.
    fn test_files(&self) -> Vec<String> {
        let folder: String = self
            .module()
            .iter()
            .map(|part| format!("{part}/"))
            .collect();
        let declared = (0..self.tokens.len())
            .filter(|&at| self.tokens[at].is_test && self.stands(at, &["mod"]))
            .filter(|&at| self.stands(at + 2, &[";"]));
        let name = |at: usize| &self.tokens[at + 1].text;
        declared
            .flat_map(|at| [".rs", "/"].map(|end| format!("src/{folder}{}{end}", name(at))))
            .collect()
    }
}

/// Takes the trees of the compiler apart.
struct Flat {
    tokens: Vec<Token>,
    depth: usize,
}

impl Flat {
    fn take(&mut self, stream: TokenStream, is_test: bool) {
        // From `#[cfg(test)]` to the end of what it stands before.
        let mut item_is_test = false;
        let mut trees = stream.into_iter().peekable();
        while let Some(tree) = trees.next() {
            let line = tree.span().start().line;
            let is_test = is_test || item_is_test;
            match tree {
                TokenTree::Ident(word) => {
                    self.push(word.to_string(), Kind::Word, line, is_test);
                }
                TokenTree::Literal(literal) => {
                    self.push(literal.to_string(), Kind::Literal, line, is_test);
                }
                TokenTree::Punct(sign) if sign.as_char() == '\'' => {
                    // A lifetime is no word.
                    trees.next();
                }
                TokenTree::Punct(sign) if sign.as_char() == '#' => {
                    let marks_test = is_cfg_test(trees.peek());
                    item_is_test = item_is_test || marks_test;
                    if marks_test || is_doc(trees.peek()) {
                        trees.next();
                    }
                }
                TokenTree::Punct(sign) => {
                    let joint = sign.as_char() == ':' && sign.spacing() == Spacing::Joint;
                    let text = if joint {
                        trees.next();
                        "::".to_owned()
                    } else {
                        sign.to_string()
                    };
                    let ends = text == ";";
                    self.push(text, Kind::Sign, line, is_test);
                    item_is_test = item_is_test && !ends;
                }
                TokenTree::Group(group) => {
                    let (open, close) = signs(group.delimiter());
                    let end = group.span_close().end().line;
                    let inner = usize::from(open == "{" && self.is_module());
                    self.push(open.to_owned(), Kind::Sign, line, is_test);
                    self.depth += inner;
                    self.take(group.stream(), is_test);
                    self.depth -= inner;
                    self.push(close.to_owned(), Kind::Sign, end, is_test);
                    item_is_test = item_is_test && open != "{";
                }
            }
        }
    }

    /// True right after `mod name`.
    fn is_module(&self) -> bool {
        let count = self.tokens.len();
        1 < count && self.tokens[count - 2].text == "mod"
    }

    fn push(&mut self, text: String, kind: Kind, line: usize, is_test: bool) {
        let depth = self.depth;
        self.tokens.push(Token {
            text,
            kind,
            line,
            is_test,
            depth,
        });
    }
}

fn signs(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

fn is_cfg_test(tree: Option<&TokenTree>) -> bool {
    tree.is_some_and(|tree| tree.to_string().replace(' ', "") == "[cfg(test)]")
}

fn is_doc(tree: Option<&TokenTree>) -> bool {
    tree.is_some_and(|tree| tree.to_string().replace(' ', "").starts_with("[doc="))
}

#[test]
fn the_reader_unfolds_paths_and_knows_tests() {
    let text = "use crate::{a::{b, self as c}, d}; fn f() { super::g::h(); select! { x::y() } }\n\
                #[cfg(test)] mod tests { use super::*; use super::super::z; }\nfn last() {}";
    let source = Source::new("src/k/l.rs", text);
    let paths = source.paths();
    let whole: Vec<_> = paths
        .iter()
        .filter_map(|path| source.within_crate(path))
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(whole, ["a::b", "a", "d", "k::g::h", "k::l", "k::z"]);
    assert!(
        paths
            .iter()
            .any(|path| path.segments == ["x", "y"] && !path.is_test)
    );
    let words = |is_test| {
        let chosen = source
            .tokens
            .iter()
            .filter(move |token| token.is_test == is_test && token.kind == Kind::Word);
        chosen.map(|token| token.text.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(
        words(true),
        ["mod", "tests", "use", "super", "use", "super", "super", "z"]
    );
    assert!(words(false).contains(&"last"));
}
