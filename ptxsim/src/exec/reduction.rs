//! Reductions of bulk operations and `red.async`: which PTX has, with the arithmetic of `atom`.

use super::atomic::{self, Operation, Update};
use crate::memory::Span;
use crate::program::decoder::Unsupported;
use crate::program::modifiers::Modifiers;
use crate::ptx::ast::Type;
use crate::tensor::tensor_map::ElementType;

/// A reduction of one element type.
#[derive(Debug, Clone, Copy)]
pub struct Reduction {
    /// Bytes of an element.
    pub size: usize,
    update: Update,
}

/// Takes operation, `.noftz` and type.
///
/// # Errors
/// PTX has no such reduction.
pub fn parse(m: &Modifiers<'_>) -> Result<Reduction, Unsupported> {
    let operation = atomic::operation(m)?;
    m.ignore(&["noftz"]);
    let ty = m.ty()?;
    find(operation, ty)
        .ok_or_else(|| Unsupported::new(format!("reduction {operation:?} of {ty:?}")))
}

/// The reduction of a tensor map's elements, if PTX has it: PTX ISA 9.0, 9.7.9.27.1.3.
pub fn of_elements(operation: Operation, element: ElementType) -> Option<Reduction> {
    let bitwise = matches!(operation, Operation::And | Operation::Or | Operation::Xor);
    let ty = match element {
        ElementType::U32 | ElementType::S32 if bitwise => Type::B32,
        ElementType::U64 | ElementType::S64 if bitwise => Type::B64,
        ElementType::U32 => Type::U32,
        ElementType::S32 => Type::S32,
        ElementType::U64 => Type::U64,
        ElementType::S64 => Type::S64,
        ElementType::F16 => Type::F16,
        ElementType::BF16 => Type::BF16,
        ElementType::F32 | ElementType::F32Ftz => Type::F32,
        _ => return None,
    };
    find(operation, ty)
}

/// The table of `cp.reduce.async.bulk` to global memory: PTX ISA 9.0, 9.7.9.25.4.2. Additions of f32
/// flush subnormals.
pub fn find(operation: Operation, ty: Type) -> Option<Reduction> {
    use Type::{B32, B64, BF16, F16, F32, F64, S32, S64, U32, U64};
    let types: &[Type] = match operation {
        Operation::Add => &[U32, S32, U64, F32, F64, F16, BF16],
        Operation::Min | Operation::Max => &[U32, S32, U64, S64, F16, BF16],
        Operation::Inc | Operation::Dec => &[U32],
        Operation::And | Operation::Or | Operation::Xor => &[B32, B64],
        Operation::Cas | Operation::Exch => &[],
    };
    let update = types
        .contains(&ty)
        .then(|| atomic::update(operation, ty, true).ok())??;
    Some(Reduction {
        size: ty.size() as usize,
        update,
    })
}

impl Reduction {
    /// Combines the elements of two aligned spans of equal length into `target`, each atomically. An
    /// element is valid afterwards if both were.
    pub fn apply(&self, target: &Span<'_>, source: &Span<'_>) {
        for at in (0..target.len()).step_by(self.size) {
            let value = match self.size {
                2 => u64::from(source.load::<u16>(at)),
                4 => u64::from(source.load::<u32>(at)),
                _ => source.load::<u64>(at),
            };
            self.apply_value(target, at, value);
            if !source.is_valid(at, self.size) {
                target.set_valid(at, self.size, false);
            }
        }
    }

    /// Combines the element at offset `at` with the bits of `value`, atomically.
    pub fn apply_value(&self, target: &Span<'_>, at: usize, value: u64) {
        atomic::apply(target, at, self.size, |old| (self.update)(old, value, 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buffer;

    #[test]
    fn elements_are_combined_and_validity_is_that_of_both() {
        let (target, source) = (Buffer::new(16, 0).unwrap(), Buffer::new(16, 1).unwrap());
        target.span().write(0, &[1; 16]);
        source.span().write(0, &[2; 12]);
        find(Operation::Add, Type::U32)
            .unwrap()
            .apply(&target.span(), &source.span());
        assert_eq!(target.span().load::<u32>(8), 0x0303_0303);
        assert_eq!(target.span().load::<u32>(12), 0x0101_0101);
        assert_eq!(target.span().first_invalid(0, 16), Some(12));
    }

    #[test]
    fn f32_additions_flush_subnormals() {
        let target = Buffer::new(4, 0).unwrap();
        target.span().store(0, 1u32);
        find(Operation::Add, Type::F32)
            .unwrap()
            .apply_value(&target.span(), 0, 1);
        assert_eq!(target.span().load::<u32>(0), 0);
    }

    #[test]
    fn what_ptx_does_not_have_is_refused() {
        assert!(find(Operation::Inc, Type::U64).is_none());
        assert!(find(Operation::Min, Type::F32).is_none());
        assert!(find(Operation::Cas, Type::B32).is_none());
        assert!(of_elements(Operation::Add, ElementType::F64).is_none());
        assert!(of_elements(Operation::And, ElementType::S32).is_some());
    }
}
