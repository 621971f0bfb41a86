use super::*;

/// Computes a whole prompt: admitted, registered.
fn run(manager: &mut BlockManager, tokens: &[u32]) -> (BlockTable, usize) {
    let (mut table, found) = manager.admit(tokens, 0).unwrap();
    manager.register(&mut table, tokens, tokens.len());
    (table, found)
}

fn tokens(first: u32, len: u32) -> Vec<u32> {
    (first..first + len).collect()
}

#[test]
fn full_blocks_of_a_common_prefix_are_shared() {
    let mut manager = BlockManager::new(8, 16, true);
    let (a, found) = run(&mut manager, &tokens(0, 40));
    assert_eq!(found, 0);
    let mut other = tokens(0, 40);
    other[33] = 999;
    let (b, found) = run(&mut manager, &other);
    assert_eq!(found, 32);
    assert_eq!(a.blocks()[..2], b.blocks()[..2]);
    assert_ne!(a.blocks()[2], b.blocks()[2]);
    assert_eq!(manager.used(), 4);
    manager.release(a);
    assert_eq!(manager.used(), 3);
    manager.release(b);
    assert_eq!(manager.used(), 0);
}

#[test]
fn the_last_token_is_always_computed() {
    let mut manager = BlockManager::new(8, 16, true);
    let prompt = tokens(0, 32);
    let (a, _) = run(&mut manager, &prompt);
    let (b, found) = run(&mut manager, &prompt);
    assert_eq!(found, 16);
    manager.release(a);
    manager.release(b);
}

#[test]
fn equal_blocks_after_unequal_prefixes_are_not_shared() {
    let mut manager = BlockManager::new(8, 16, true);
    let a: Vec<u32> = [vec![1; 16], vec![7; 16], vec![0]].concat();
    let b: Vec<u32> = [vec![2; 16], vec![7; 16], vec![0]].concat();
    let (a, _) = run(&mut manager, &a);
    let (b, found) = run(&mut manager, &b);
    assert_eq!(found, 0);
    assert!(a.blocks().iter().all(|id| !b.blocks().contains(id)));
}

#[test]
fn a_twin_computed_at_the_same_time_stays_private_but_its_chain_goes_on() {
    let mut manager = BlockManager::new(8, 16, true);
    let prompt = tokens(0, 17);
    let (mut a, _) = manager.admit(&prompt, 0).unwrap();
    let (mut b, _) = manager.admit(&prompt, 0).unwrap();
    manager.register(&mut a, &prompt, 17);
    manager.register(&mut b, &prompt, 17);
    assert_ne!(a.blocks()[0], b.blocks()[0]);
    // b goes on; its second block is found behind a's first.
    let longer = tokens(0, 33);
    assert!(manager.grow(&mut b, 33));
    manager.register(&mut b, &longer, 33);
    let (c, found) = manager.admit(&longer, 0).unwrap();
    assert_eq!(found, 32);
    assert_eq!(c.blocks()[..2], [a.blocks()[0], b.blocks()[1]]);
}

#[test]
fn what_was_unused_for_longest_goes_first_and_tails_before_heads() {
    let mut manager = BlockManager::new(4, 16, true);
    let (old, new) = (tokens(0, 32), tokens(100, 32));
    let (table, _) = run(&mut manager, &old);
    manager.release(table);
    let (table, _) = run(&mut manager, &new);
    manager.release(table);
    // No blank block is left: one more evicts the tail of the oldest.
    let (table, _) = run(&mut manager, &tokens(200, 16));
    manager.release(table);
    let (table, found) = manager.admit(&tokens(0, 17), 0).unwrap();
    assert_eq!(found, 16, "the head of the oldest is still there");
    manager.release(table);
    let (_, found) = manager.admit(&tokens(100, 33), 0).unwrap();
    assert_eq!(found, 16, "its tail went to the one before");
}

#[test]
fn nothing_changes_when_blocks_run_out() {
    let mut manager = BlockManager::new(3, 16, true);
    let (mut table, _) = manager.admit(&tokens(0, 32), 0).unwrap();
    assert!(manager.admit(&tokens(50, 17), 0).is_none());
    assert!(manager.admit(&tokens(50, 16), 1).is_none(), "headroom");
    assert!(!manager.grow(&mut table, 49 + 16));
    assert_eq!((table.blocks().len(), manager.free()), (2, 1));
    assert!(manager.grow(&mut table, 48));
}

#[test]
fn without_prefix_cache_nothing_is_found() {
    let mut manager = BlockManager::new(8, 16, false);
    let (table, _) = run(&mut manager, &tokens(0, 40));
    manager.release(table);
    let (_, found) = run(&mut manager, &tokens(0, 40));
    assert_eq!(found, 0);
}
