//! Who served which prompt, so that a conversation finds what it said before in the same cache.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::request::{OUTPUT_HASH_START, extend_output_hash};

/// Prompts that are remembered; older ones are forgotten.
const REMEMBERED: usize = 1 << 16;

/// A prompt: its length and a hash of its ids.
type Key = (usize, u64);

/// Prompts and the replicas that served them.
///
/// Only what goes on from a *whole* earlier prompt counts, and each is gone on from once: so a
/// conversation stays where it is, and prompts that merely begin alike, as those with a common
/// system prompt do, do not all end up in one place.
#[derive(Debug, Default)]
pub(super) struct Homes {
    known: HashMap<Key, usize>,
    /// How many of each length are known.
    lengths: BTreeMap<usize, usize>,
    /// In the order they were remembered; some have been taken since.
    order: VecDeque<Key>,
}

impl Homes {
    /// Who served the longest prompt that this one goes on from; forgets that one.
    pub(super) fn take(&mut self, prompt: &[u32]) -> Option<usize> {
        let mut found = None;
        let (mut hash, mut hashed) = (OUTPUT_HASH_START, 0);
        // Equal prompts do not go on from each other.
        for &length in self.lengths.range(..prompt.len()).map(|(length, _)| length) {
            hash = extended(hash, &prompt[hashed..length]);
            hashed = length;
            if self.known.contains_key(&(length, hash)) {
                found = Some((length, hash));
            }
        }
        self.forget(found?)
    }

    /// A prompt was handed to this replica.
    pub(super) fn remember(&mut self, prompt: &[u32], replica: usize) {
        let key = (prompt.len(), extended(OUTPUT_HASH_START, prompt));
        if self.known.insert(key, replica).is_none() {
            *self.lengths.entry(key.0).or_default() += 1;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.forget(oldest);
        }
    }

    fn forget(&mut self, key: Key) -> Option<usize> {
        let replica = self.known.remove(&key)?;
        if let Some(count) = self.lengths.get_mut(&key.0) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&key.0);
            }
        }
        Some(replica)
    }
}

fn extended(hash: u64, ids: &[u32]) -> u64 {
    ids.iter()
        .fold(hash, |hash, &id| extend_output_hash(hash, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_goes_home_from_turn_to_turn() {
        let mut homes = Homes::default();
        homes.remember(&[1, 2, 3], 4);
        homes.remember(&[1, 2, 9], 5);
        assert_eq!(homes.take(&[1, 2]), None, "shorter");
        assert_eq!(homes.take(&[1, 2, 3]), None, "equal");
        assert_eq!(homes.take(&[1, 2, 4, 5]), None, "another one");
        assert_eq!(homes.take(&[1, 2, 3, 7, 8]), Some(4));
        homes.remember(&[1, 2, 3, 7, 8], 4);
        assert_eq!(homes.take(&[1, 2, 3, 7, 8, 9]), Some(4));
        assert_eq!(homes.take(&[1, 2, 9, 9]), Some(5));
        assert!(homes.known.is_empty() && homes.lengths.is_empty());
    }

    #[test]
    fn the_longest_beginning_counts() {
        let mut homes = Homes::default();
        homes.remember(&[], 3);
        homes.remember(&[1], 0);
        homes.remember(&[1, 2, 3], 1);
        homes.remember(&[1, 2], 2);
        assert_eq!(homes.take(&[1, 2, 3, 4]), Some(1));
        assert_eq!(homes.take(&[1, 2, 3, 4]), Some(2));
        assert_eq!(homes.take(&[1, 2, 3, 4]), Some(0));
        assert_eq!(homes.take(&[1, 2, 3, 4]), Some(3));
        assert_eq!(homes.take(&[1, 2, 3, 4]), None);
    }

    /// A prompt that is nothing but what all have in common is gone on from by one of them only.
    #[test]
    fn a_common_beginning_does_not_gather_all_in_one_place() {
        let mut homes = Homes::default();
        homes.remember(&[7, 7], 1);
        assert_eq!(homes.take(&[7, 7, 1]), Some(1));
        homes.remember(&[7, 7, 1], 1);
        assert_eq!(homes.take(&[7, 7, 2]), None);
    }

    #[test]
    fn old_ones_are_forgotten() {
        let mut homes = Homes::default();
        for id in 0..REMEMBERED as u32 + 1 {
            homes.remember(&[id], 0);
        }
        assert_eq!(homes.known.len(), REMEMBERED);
        assert_eq!(homes.take(&[0, 1]), None);
        assert_eq!(homes.take(&[1, 1]), Some(0));
        assert_eq!(homes.lengths.get(&1), Some(&(REMEMBERED - 1)));
    }
}
