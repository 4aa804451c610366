//! The words of a predicate.
use super::PredicateError;
use std::fmt::{self, Write};

/// The longest predicate, in bytes. A list of some thousand values fits.
pub(super) const TEXT_MAX_BYTES: usize = 64 << 10;
/// Names that need quotes.
const RESERVED: [&str; 10] = ["AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "IS", "NULL", "TRUE", "FALSE"];
/// Longest first.
const SYMBOLS: [&str; 14] = ["!=", "<>", "<=", ">=", "==", "=", "<", ">", "(", ")", ",", "-", "+", "."];
/// So much of what is wrong is shown.
const FOUND_MAX_CHARS: usize = 20;

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword or a column: alone and without quotes.
    Word(String),
    /// A column: dotted, or in quotes.
    Name(String),
    /// Digits, at most one point and one exponent.
    Number(String),
    /// Text without its quotes.
    String(String),
    /// Bytes.
    Binary(Vec<u8>),
    Symbol(&'static str),
    End,
}

/// A word and where it begins and ends.
#[derive(Debug, Clone)]
pub(super) struct Lexeme {
    pub token: Token,
    pub at: usize,
    pub end: usize,
}

/// All words of a text, [`Token::End`] the last.
pub(super) fn lexemes(text: &str) -> Result<Vec<Lexeme>, PredicateError> {
    if text.len() > TEXT_MAX_BYTES {
        return Err(PredicateError::TooLong { size: text.len(), limit: TEXT_MAX_BYTES });
    }
    let mut lexer = Lexer { text, at: 0 };
    let mut all = Vec::new();
    loop {
        lexer.skip(char::is_whitespace);
        let at = lexer.at;
        let token = lexer.token()?;
        let is_end = token == Token::End;
        all.push(Lexeme { token, at, end: lexer.at });
        if is_end {
            return Ok(all);
        }
    }
}

/// What is wrong at a byte of the text.
pub(super) fn syntax(text: &str, at: usize, end: usize, expected: &'static str) -> PredicateError {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let found = match text.get(at..end) {
        None | Some("") => "the end".to_owned(),
        Some(found) if found.chars().count() > FOUND_MAX_CHARS => {
            let shown: String = found.chars().take(FOUND_MAX_CHARS).map(plain).collect();
            format!("{shown}…")
        }
        Some(found) => found.chars().map(plain).collect(),
    };
    PredicateError::Syntax { position: position(text, at), expected, found }
}

/// Which character of the text begins at a byte, the first being 1.
pub(super) fn position(text: &str, at: usize) -> usize {
    text.get(..at).map_or(0, |before| before.chars().count()) + 1
}

/// Writes the name of a column so that it is read again as that.
pub(super) fn write_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let is_plain = |part: &str| part.starts_with(begins_word) && part.chars().all(is_of_word);
    if name.split('.').all(is_plain) && !is_reserved(name) {
        return f.write_str(name);
    }
    f.write_char('"')?;
    f.write_str(&name.replace('"', "\"\""))?;
    f.write_char('"')
}

/// Whether a word is one of the language.
pub(super) fn is_reserved(word: &str) -> bool {
    RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(word))
}

fn begins_word(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// The next characters that are such.
    fn skip(&mut self, is_such: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let (such, _) = rest.split_at(rest.find(|c| !is_such(c)).unwrap_or(rest.len()));
        self.at += such.len();
        such
    }

    fn fault(&self, at: usize, expected: &'static str) -> PredicateError {
        let end = self.text.get(at..).and_then(|rest| rest.chars().next()).map_or(at, |c| at + c.len_utf8());
        syntax(self.text, at, end, expected)
    }

    fn token(&mut self) -> Result<Token, PredicateError> {
        let rest = self.rest();
        let mut chars = rest.chars();
        match (chars.next(), chars.next()) {
            (None, _) => Ok(Token::End),
            (Some('\''), _) => self.quoted('\'').map(Token::String),
            (Some('x' | 'X'), Some('\'')) => {
                let begin = self.at;
                self.at += 1;
                let digits = self.quoted('\'')?;
                let bytes = bytes(&digits);
                bytes
                    .map(Token::Binary)
                    .ok_or_else(|| self.fault(begin, "X'…' with pairs of hexadecimal digits"))
            }
            (Some(c), _) if begins_word(c) || matches!(c, '"' | '`') => self.name(),
            (Some(c), next)
                if c.is_ascii_digit() || (c == '.' && next.is_some_and(|c| c.is_ascii_digit())) =>
            {
                self.number()
            }
            _ => match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
                Some(symbol) => {
                    self.at += symbol.len();
                    Ok(Token::Symbol(symbol))
                }
                None => Err(self.fault(self.at, "a column, a literal or an operator")),
            },
        }
    }

    /// What stands in quotes; two of them are one.
    fn quoted(&mut self, quote: char) -> Result<String, PredicateError> {
        let begin = self.at;
        let mut out = String::new();
        self.at += quote.len_utf8();
        loop {
            out.push_str(self.skip(|c| c != quote));
            if self.peek().is_none() {
                return Err(self.fault(begin, "a closing quote behind this one"));
            }
            self.at += quote.len_utf8();
            if self.peek() != Some(quote) {
                return Ok(out);
            }
            out.push(quote);
            self.at += quote.len_utf8();
        }
    }

    fn name(&mut self) -> Result<Token, PredicateError> {
        let (mut name, mut is_word) = (String::new(), true);
        loop {
            match self.peek() {
                Some(quote @ ('"' | '`')) => {
                    name.push_str(&self.quoted(quote)?);
                    is_word = false;
                }
                Some(c) if begins_word(c) => name.push_str(self.skip(is_of_word)),
                _ => return Err(self.fault(self.at, "the name of a field behind the dot")),
            }
            if self.peek() != Some('.') {
                return Ok(if is_word { Token::Word(name) } else { Token::Name(name) });
            }
            self.at += 1;
            name.push('.');
            is_word = false;
        }
    }

    fn number(&mut self) -> Result<Token, PredicateError> {
        let begin = self.at;
        let is_digit = |c: char| c.is_ascii_digit();
        self.skip(is_digit);
        if self.peek() == Some('.') {
            self.at += 1;
            if self.skip(is_digit).is_empty() {
                return Err(self.fault(self.at, "digits behind the point"));
            }
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            self.at += 1;
            if matches!(self.peek(), Some('+' | '-')) {
                self.at += 1;
            }
            if self.skip(is_digit).is_empty() {
                return Err(self.fault(self.at, "digits of an exponent"));
            }
        }
        if self.peek().is_some_and(|c| is_of_word(c) || c == '.') {
            return Err(self.fault(self.at, "the end of the number"));
        }
        Ok(Token::Number(self.text.get(begin..self.at).unwrap_or_default().to_owned()))
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        digits.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
