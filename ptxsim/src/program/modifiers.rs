//! The dot-separated parts of an opcode.

use super::decoder::Unsupported;
use crate::ptx::ast::Type;
use std::cell::Cell;

/// Parts of an opcode after the key of its family, taken one by one. What is never taken is
/// unsupported, so that no modifier is ignored by accident.
#[derive(Debug)]
pub struct Modifiers<'a> {
    parts: Vec<&'a str>,
    taken: Cell<u64>,
}

impl<'a> Modifiers<'a> {
    /// Splits `rest`, such as `.rn.ftz.f32`.
    pub fn new(rest: &'a str) -> Modifiers<'a> {
        let parts = rest.split('.').filter(|part| !part.is_empty()).collect();
        Modifiers {
            parts,
            taken: Cell::new(0),
        }
    }

    fn take_where<T>(&self, mut choose: impl FnMut(&'a str) -> Option<T>) -> Option<T> {
        for (i, part) in self.parts.iter().enumerate() {
            if self.taken.get() >> i & 1 == 0
                && let Some(found) = choose(part)
            {
                self.taken.set(self.taken.get() | 1 << i);
                return Some(found);
            }
        }
        None
    }

    /// Takes the first part equal to `name`; whether there was one.
    pub fn take(&self, name: &str) -> bool {
        self.take_where(|part| (part == name).then_some(()))
            .is_some()
    }

    /// Takes the first part that is one of the names, and gives its value.
    pub fn choose<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        self.take_where(|part| choices.iter().find(|c| c.0 == part).map(|c| c.1))
    }

    /// Takes the first part left if it is one of the names, and gives its value.
    pub fn next_of<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let mut first = true;
        self.take_where(|part| {
            let found = choices.iter().find(|c| c.0 == part).map(|c| c.1);
            std::mem::take(&mut first).then_some(found).flatten()
        })
    }

    /// Takes all parts that are among the names: hints without an effect here.
    pub fn ignore(&self, names: &[&str]) {
        while self
            .take_where(|part| names.contains(&part).then_some(()))
            .is_some()
        {}
    }

    /// Takes all parts that start with one of the prefixes: hints without an effect here.
    pub fn ignore_prefixed(&self, prefixes: &[&str]) {
        let hint = |part: &str| prefixes.iter().any(|p| part.starts_with(p)).then_some(());
        while self.take_where(hint).is_some() {}
    }

    /// Takes the first part left, whatever it is.
    pub fn next(&self) -> Option<&'a str> {
        self.take_where(Some)
    }

    /// Takes the first part that is a type.
    ///
    /// # Errors
    /// When there is none.
    pub fn ty(&self) -> Result<Type, Unsupported> {
        self.take_where(parse_type)
            .ok_or_else(|| Unsupported::new("no type"))
    }

    /// # Errors
    /// When parts are left.
    pub fn finish(&self) -> Result<(), Unsupported> {
        match self.take_where(Some) {
            None => Ok(()),
            Some(part) => Err(Unsupported::new(format!("modifier .{part}"))),
        }
    }
}

fn parse_type(part: &str) -> Option<Type> {
    Some(match part {
        "pred" => Type::Pred,
        "b8" => Type::B8,
        "b16" => Type::B16,
        "b32" => Type::B32,
        "b64" => Type::B64,
        "b128" => Type::B128,
        "u8" => Type::U8,
        "u16" => Type::U16,
        "u32" => Type::U32,
        "u64" => Type::U64,
        "s8" => Type::S8,
        "s16" => Type::S16,
        "s32" => Type::S32,
        "s64" => Type::S64,
        "f16" => Type::F16,
        "f16x2" => Type::F16x2,
        "bf16" => Type::BF16,
        "bf16x2" => Type::BF16x2,
        "f32" => Type::F32,
        "f64" => Type::F64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_is_an_error() {
        let m = Modifiers::new(".rn.ftz.f32");
        assert!(m.take("ftz"));
        assert_eq!(m.ty().unwrap(), Type::F32);
        assert!(m.finish().unwrap_err().to_string().contains(".rn"));
    }

    #[test]
    fn types_are_taken_in_order() {
        let m = Modifiers::new(".rn.f16.f32");
        assert_eq!(m.choose(&[("rn", 1), ("rz", 2)]), Some(1));
        assert_eq!((m.ty().unwrap(), m.ty().unwrap()), (Type::F16, Type::F32));
        m.finish().unwrap();
    }
}
