//! The total order of detections, score descending then index ascending, as ascending integers.

/// The key of a score, which is not NaN, and an index below 2^32. -0 counts as 0.
#[inline]
pub(super) fn sort_key(score: f32, index: usize) -> u64 {
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    };
    u64::from(!ascending) << 32 | index as u64
}

/// The score of a key.
pub(super) fn key_score(key: u64) -> f32 {
    let ascending = !(key >> 32) as u32;
    let bits = if ascending >> 31 == 1 {
        ascending ^ 1 << 31
    } else {
        !ascending
    };
    f32::from_bits(bits)
}

/// Keeps the smallest `most` keys, in any order.
pub(super) fn keep_best(keys: &mut Vec<u64>, most: usize) {
    if keys.len() > most {
        if most > 0 {
            keys.select_nth_unstable(most - 1);
        }
        keys.truncate(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_detections() {
        let scores = [
            f32::INFINITY,
            3.0,
            1e-40,
            0.0,
            -1e-40,
            -2.0,
            f32::NEG_INFINITY,
        ];
        let keys: Vec<_> = scores.iter().map(|&score| sort_key(score, 7)).collect();
        assert!(keys.is_sorted() && sort_key(3.0, 8) > keys[1]);
        assert_eq!(sort_key(-0.0, 1), sort_key(0.0, 1));
        assert!(
            keys.iter()
                .zip(scores)
                .all(|(&key, score)| key_score(key) == score)
        );
    }

    #[test]
    fn the_smallest_are_kept() {
        for most in [0, 1, 3, 5, 9] {
            let mut keys = vec![4, 1, 5, 3, 2];
            keep_best(&mut keys, most);
            keys.sort_unstable();
            assert_eq!(keys, (1..=5u64).take(most).collect::<Vec<_>>());
        }
    }
}
