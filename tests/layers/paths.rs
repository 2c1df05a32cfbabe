//! The paths that a source file names, apart from its tests.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What a file holds, apart from tests: paths that it names, and modules that only tests have. Code behind
/// `#[cfg(test)]` is exempt, since a test of a lower layer may well be written by means of a higher one.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) paths: Vec<Vec<String>>,
    pub(crate) tests: Vec<Vec<String>>,
}

pub(crate) fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

pub(crate) fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

pub(crate) fn group(token: Option<&TokenTree>, wanted: Delimiter) -> Option<TokenStream> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == wanted => Some(group.stream()),
        _ => None,
    }
}

pub(crate) fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

/// The attribute at `#`, as text without spaces.
pub(crate) fn attribute(tokens: &[TokenTree], at: usize) -> Option<String> {
    let inside = is_punct(tokens.get(at), '#').then(|| group(tokens.get(at + 1), Delimiter::Bracket))??;
    Some(inside.to_string().replace(' ', ""))
}

/// Where the item, field or statement ends that begins at `at`.
pub(crate) fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while attribute(tokens, at).is_some() {
        at += 2;
    }
    if group(tokens.get(at), Delimiter::Brace).is_some() {
        return at + 1;
    }
    let mut first = at;
    while ident(tokens.get(first)).is_some_and(|word| word == "pub") {
        first += 1 + usize::from(group(tokens.get(first + 1), Delimiter::Parenthesis).is_some());
    }
    let word = ident(tokens.get(first)).unwrap_or_default();
    let ends_with_block = ["fn", "mod", "struct", "enum", "impl", "trait", "unsafe", "async"];
    let is_item = ends_with_block.contains(&word.as_str())
        || ["use", "const", "static", "type", "let"].contains(&word.as_str());
    while at < tokens.len() {
        let is_block = group(tokens.get(at), Delimiter::Brace).is_some();
        let is_end = is_punct(tokens.get(at), ';') || (!is_item && is_punct(tokens.get(at), ','));
        at += 1;
        if is_end || (is_block && ends_with_block.contains(&word.as_str())) {
            break;
        }
    }
    at
}

/// Takes down a path that begins at `at` with `prefix` before it, and gives where it ends.
pub(crate) fn follow(
    tokens: &[TokenTree],
    mut at: usize,
    mut path: Vec<String>,
    paths: &mut Vec<Vec<String>>,
) -> usize {
    loop {
        if let Some(inside) = group(tokens.get(at), Delimiter::Brace) {
            let inside: Vec<TokenTree> = inside.into_iter().collect();
            for part in inside.split(|token| is_punct(Some(token), ',')).filter(|part| !part.is_empty()) {
                follow(part, 0, path.clone(), paths);
            }
            return at + 1;
        }
        match ident(tokens.get(at)) {
            Some(word) if word != "self" => path.push(word),
            _ => {}
        }
        at += 1;
        let goes_on = is_path_separator(tokens, at)
            && (ident(tokens.get(at + 2)).is_some() || group(tokens.get(at + 2), Delimiter::Brace).is_some());
        if !goes_on {
            paths.push(path);
            return at;
        }
        at += 2;
    }
}

/// Reads the tokens of a module.
pub(crate) fn read(tokens: TokenStream, module: &[String], found: &mut Found) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if let Some(attribute) = attribute(&tokens, at) {
            if attribute.starts_with("cfg(test") || attribute.starts_with("cfg(all(test") {
                let end = end_of_item(&tokens, at);
                let words: Vec<String> =
                    tokens[at..end].iter().filter_map(|token| ident(Some(token))).collect();
                if let Some(place) = words.iter().position(|word| word == "mod") {
                    found.tests.push([module, &words[place + 1..place + 2]].concat());
                }
                at = end;
            } else {
                at += 2;
            }
            continue;
        }
        let word = ident(tokens.get(at));
        if word.as_deref() == Some("mod")
            && let (Some(name), Some(inside)) =
                (ident(tokens.get(at + 1)), group(tokens.get(at + 2), Delimiter::Brace))
        {
            read(inside, &[module, &[name]].concat(), found);
            at += 3;
            continue;
        }
        if word.is_some() && (is_path_separator(&tokens, at + 1) || word.as_deref() == Some("use")) {
            at += usize::from(word.as_deref() == Some("use"));
            let mut paths = Vec::new();
            at = follow(&tokens, at, Vec::new(), &mut paths);
            found.paths.extend(paths.into_iter().map(|path| resolve(path, module)));
            continue;
        }
        if let Some(TokenTree::Group(group)) = tokens.get(at) {
            read(group.stream(), module, found);
        }
        at += 1;
    }
}

/// A path from the root of the crate, where it begins with `super` or with the library's name.
pub(crate) fn resolve(path: Vec<String>, module: &[String]) -> Vec<String> {
    let up = path.iter().take_while(|word| *word == "super").count();
    if up > 0 {
        let base = &module[..module.len().saturating_sub(up)];
        return [&["crate".to_owned()], base, &path[up..]].concat();
    }
    match path.first().map(String::as_str) {
        Some("ddpm_gpu") => [&["crate".to_owned()], &path[1..]].concat(),
        _ => path,
    }
}
