//! Which of several machines are not beaten in everything at once.

/// Marks the points that no other point dominates. A point dominates another when it is at least
/// as good in every dimension and better in one; lower is better in all. A point that lacks a
/// figure (not finite) is never marked. Equal points are both marked.
#[must_use]
pub fn pareto<const N: usize>(points: &[[f64; N]]) -> Vec<bool> {
    let dominates = |a: &[f64; N], b: &[f64; N]| {
        a.iter().zip(b).all(|(x, y)| x <= y) && a.iter().zip(b).any(|(x, y)| x < y)
    };
    points
        .iter()
        .map(|point| {
            point.iter().all(|x| x.is_finite())
                && !points.iter().any(|other| dominates(other, point))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn by_hand() {
        let points = [
            [1.0, 4.0],
            [2.0, 2.0],
            [3.0, 3.0],
            [4.0, 1.0],
            [f64::NAN, 0.0],
        ];
        assert_eq!(pareto(&points), [true, true, false, true, false]);
        assert_eq!(pareto(&[[1.0, 1.0], [1.0, 1.0]]), [true, true]);
        assert!(pareto::<2>(&[]).is_empty());
    }

    proptest! {
        /// Every point that is not marked is beaten by one that is; no marked one is beaten.
        #[test]
        fn the_marked_set_covers_the_rest(
            points in prop::collection::vec([0u8..8, 0u8..8, 0u8..8], 1..20),
        ) {
            let points: Vec<[f64; 3]> = points.into_iter().map(|p| p.map(f64::from)).collect();
            let marked = pareto(&points);
            for (point, is_marked) in points.iter().zip(&marked) {
                let beaten_by = |other: &[f64; 3]| {
                    other != point && other.iter().zip(point).all(|(a, b)| a <= b)
                };
                let by_marked = points.iter().zip(&marked).any(|(o, m)| *m && beaten_by(o));
                prop_assert_eq!(*is_marked, !by_marked);
            }
        }
    }
}
