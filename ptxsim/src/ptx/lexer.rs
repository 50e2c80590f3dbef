//! PTX text to tokens, with one token of look-ahead.

use super::ParseError;

/// A token; slices borrow from the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Token<'a> {
    /// Name of a register, variable, label or function, or the first part of an opcode.
    Name(&'a str),
    /// A directive, type or modifier with its dot, such as `.shared::cta`.
    Dot(&'a str),
    /// An integer literal and whether it is unsigned (suffix `U`, or too large for `i64`).
    Int(u64, bool),
    /// `0f` literal, as bits.
    F32(u32),
    /// `0d` or decimal literal, as bits.
    F64(u64),
    /// Contents of a string literal.
    Str(&'a str),
    /// An operator or a delimiter.
    Punct(&'static str),
    /// End of the text.
    End,
}

/// Longest first, so that `<<` is not two `<`.
const PUNCTUATION: [&str; 32] = [
    "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "(", ")", "[", "]", "{", "}", "<", ">", ",",
    ";", ":", "=", "+", "-", "*", "/", "%", "!", "~", "&", "|", "^", "?", "@",
];

/// Token stream over a text.
pub struct Lexer<'a> {
    text: &'a str,
    position: usize,
    scan_line: u32,
    peeked: Token<'a>,
    line: u32,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Lexer<'a> {
    /// Starts at the first token of `text`.
    pub fn new(text: &'a str) -> Result<Self, ParseError> {
        let mut lexer = Lexer {
            text,
            position: 0,
            scan_line: 1,
            peeked: Token::End,
            line: 1,
        };
        lexer.advance()?;
        Ok(lexer)
    }

    /// The next token.
    pub fn peek(&self) -> Token<'a> {
        self.peeked
    }

    /// Line of the next token.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Takes the next token.
    pub fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let token = self.peeked;
        self.advance()?;
        Ok(token)
    }

    /// Takes the next token if it is this punctuation.
    pub fn accept(&mut self, punctuation: &str) -> Result<bool, ParseError> {
        let found = matches!(self.peeked, Token::Punct(p) if p == punctuation);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// Takes this punctuation or fails.
    pub fn expect(&mut self, punctuation: &str) -> Result<(), ParseError> {
        if self.accept(punctuation)? {
            return Ok(());
        }
        self.error(format!(
            "expected `{punctuation}`, found {}",
            describe(self.peeked)
        ))
    }

    /// Takes a name or fails.
    pub fn expect_name(&mut self) -> Result<&'a str, ParseError> {
        match self.peeked {
            Token::Name(name) => {
                self.advance()?;
                Ok(name)
            }
            other => self.error(format!("expected a name, found {}", describe(other))),
        }
    }

    /// Takes an integer literal that fits 32 bits or fails.
    pub fn expect_u32(&mut self) -> Result<u32, ParseError> {
        match self.peeked {
            Token::Int(value, _) if value <= u64::from(u32::MAX) => {
                self.advance()?;
                Ok(value as u32)
            }
            other => self.error(format!(
                "expected a 32-bit integer, found {}",
                describe(other)
            )),
        }
    }

    /// An error at the next token.
    pub fn error<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError {
            line: self.line,
            message: message.into(),
        })
    }

    fn advance(&mut self) -> Result<(), ParseError> {
        self.skip_blank()?;
        self.line = self.scan_line;
        let rest = &self.text.as_bytes()[self.position..];
        self.peeked = match rest {
            [] => Token::End,
            [b'"', ..] => self.string()?,
            [b'0'..=b'9', ..] => self.number()?,
            [b'.', next, ..] if is_word(*next) => Token::Dot(self.dot_word()),
            [first, ..] if first.is_ascii_alphabetic() => Token::Name(self.word()),
            [b'_' | b'$', ..] => Token::Name(self.word()),
            [b'%', next, ..] if is_word(*next) => Token::Name(self.word()),
            _ => self.punctuation()?,
        };
        Ok(())
    }

    fn punctuation(&mut self) -> Result<Token<'a>, ParseError> {
        let rest = &self.text[self.position..];
        for punctuation in PUNCTUATION {
            if rest.starts_with(punctuation) {
                self.position += punctuation.len();
                return Ok(Token::Punct(punctuation));
            }
        }
        let character = rest.chars().next().unwrap_or(' ');
        self.error(format!("unexpected character {character:?}"))
    }

    /// Skips white space, comments and preprocessor line markers.
    fn skip_blank(&mut self) -> Result<(), ParseError> {
        let bytes = self.text.as_bytes();
        loop {
            match &bytes[self.position..] {
                [b'\n', ..] => {
                    self.scan_line += 1;
                    self.position += 1;
                }
                [byte, ..] if byte.is_ascii_whitespace() => self.position += 1,
                [b'/', b'/', ..] | [b'#', ..] => {
                    let rest = &bytes[self.position..];
                    self.position += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                }
                [b'/', b'*', ..] => {
                    let rest = &self.text[self.position + 2..];
                    let Some(length) = rest.find("*/") else {
                        return self.error("comment without an end");
                    };
                    self.count_lines(&rest[..length]);
                    self.position += length + 4;
                }
                _ => return Ok(()),
            }
        }
    }

    fn count_lines(&mut self, skipped: &str) {
        self.scan_line += skipped.bytes().filter(|&b| b == b'\n').count() as u32;
    }

    /// A name; its first byte has been looked at.
    fn word(&mut self) -> &'a str {
        let start = self.position;
        let bytes = self.text.as_bytes();
        self.position += 1;
        while self.position < bytes.len() && is_word(bytes[self.position]) {
            self.position += 1;
        }
        &self.text[start..self.position]
    }

    /// `.word` and any `::word` that follow it.
    fn dot_word(&mut self) -> &'a str {
        let start = self.position;
        self.word();
        while let [b':', b':', next, ..] = &self.text.as_bytes()[self.position..] {
            if !is_word(*next) {
                break;
            }
            self.position += 2;
            self.word();
        }
        &self.text[start..self.position]
    }

    fn string(&mut self) -> Result<Token<'a>, ParseError> {
        let start = self.position + 1;
        let mut escaped = false;
        for (offset, byte) in self.text.as_bytes()[start..].iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    let contents = &self.text[start..start + offset];
                    self.count_lines(contents);
                    self.position = start + offset + 1;
                    return Ok(Token::Str(contents));
                }
                _ => {}
            }
        }
        self.error("string without an end")
    }

    fn number(&mut self) -> Result<Token<'a>, ParseError> {
        let word = self.word();
        let parsed = match word.as_bytes() {
            [b'0', b'f' | b'F', ..] if word.len() == 10 => {
                u32::from_str_radix(&word[2..], 16).ok().map(Token::F32)
            }
            [b'0', b'd' | b'D', ..] if word.len() == 18 => {
                u64::from_str_radix(&word[2..], 16).ok().map(Token::F64)
            }
            [b'0', b'x' | b'X', ..] => integer(&word[2..], 16),
            [b'0', b'b' | b'B', ..] => integer(&word[2..], 2),
            _ if self.at_fraction() || word.contains(['e', 'E']) => self.decimal(word),
            [b'0', _, ..] => integer(&word[1..], 8),
            _ => integer(word, 10),
        };
        match parsed {
            Some(token) => Ok(token),
            None => self.error(format!("bad number `{word}`")),
        }
    }

    fn at_fraction(&self) -> bool {
        self.text.as_bytes().get(self.position) == Some(&b'.')
    }

    /// A decimal floating-point literal; `word` is what has been taken of it.
    fn decimal(&mut self, word: &'a str) -> Option<Token<'a>> {
        let start = self.position - word.len();
        if self.at_fraction() {
            self.word();
        }
        let bytes = self.text.as_bytes();
        let exponent_open = matches!(bytes[self.position - 1], b'e' | b'E');
        if exponent_open && matches!(bytes.get(self.position), Some(b'+' | b'-')) {
            self.word();
        }
        let value: f64 = self.text[start..self.position].parse().ok()?;
        Some(Token::F64(value.to_bits()))
    }
}

/// An integer literal without its prefix; an empty one is the octal `0U`.
fn integer<'a>(digits: &str, radix: u32) -> Option<Token<'a>> {
    let (digits, suffix) = match digits.strip_suffix('U') {
        Some(digits) => (digits, true),
        None => (digits, false),
    };
    if digits.is_empty() && radix == 8 {
        return Some(Token::Int(0, suffix));
    }
    if digits.starts_with('+') {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    Some(Token::Int(value, suffix || i64::try_from(value).is_err()))
}

/// A token as error messages show it.
pub fn describe(token: Token<'_>) -> String {
    match token {
        Token::Name(text) | Token::Dot(text) => format!("`{text}`"),
        Token::Punct(text) => format!("`{text}`"),
        Token::Int(value, _) => format!("`{value}`"),
        Token::F32(bits) => format!("`0f{bits:08X}`"),
        Token::F64(bits) => format!("`0d{bits:016X}`"),
        Token::Str(text) => format!("\"{text}\""),
        Token::End => "the end of the text".into(),
    }
}
