//! What the server keeps for itself: values that one call at a time looks at, and queues that need no memory.
//!
//! A queue is linked through what stands in it, so that noting that something is to be looked at, or told of, cannot fail. What
//! stands in one is kept alive by it until it is taken out: a queue is to be empty when it goes. (If it dropped what is left, the
//! drops of queues and of what stands in them would call each other in a ring, and of a ring no compiler finds that it does not
//! unwind.)

use std::{
    cell::{Cell, RefCell},
    marker::PhantomData,
    mem::ManuallyDrop,
};

use npfs_ringbuf::Shared;

use super::{HostResult, types::NPFS_HOST_INTERNAL};

/// A value for one call at a time, of one thread.
#[derive(Default)]
pub(super) struct Turns<T>(RefCell<T>);

impl<T> Turns<T> {
    pub(super) const fn new(value: T) -> Turns<T> {
        Turns(RefCell::new(value))
    }

    /// Whoever calls this from within such a call has made a bug, and is told so.
    pub(super) fn with<R>(&self, call: impl FnOnce(&mut T) -> R) -> HostResult<R> {
        match self.0.try_borrow_mut() {
            Ok(mut value) => Ok(call(&mut value)),
            Err(_) => Err(NPFS_HOST_INTERNAL),
        }
    }
}

/// What can stand in a queue of the kind `Q`.
pub(super) trait Linked<Q>: Sized {
    fn place(&self) -> &Place<Self>;
}

/// An owner, or none; never dropped.
struct Owner<T>(Cell<ManuallyDrop<Option<Shared<T>>>>);

impl<T> Owner<T> {
    const fn none() -> Owner<T> {
        Owner(Cell::new(ManuallyDrop::new(None)))
    }

    fn replace(&self, with: Option<Shared<T>>) -> Option<Shared<T>> {
        ManuallyDrop::into_inner(self.0.replace(ManuallyDrop::new(with)))
    }
}

/// Its place there.
pub(super) struct Place<T> {
    is_taken: Cell<bool>,
    next: Owner<T>,
}

impl<T> Place<T> {
    pub(super) const fn new() -> Place<T> {
        Place {
            is_taken: Cell::new(false),
            next: Owner::none(),
        }
    }
}

/// First in, first out.
pub(super) struct Queue<T: Linked<Q>, Q> {
    first: Owner<T>,
    last: Owner<T>,
    len: Cell<usize>,
    kind: PhantomData<Q>,
}

impl<T: Linked<Q>, Q> Queue<T, Q> {
    pub(super) const fn new() -> Queue<T, Q> {
        Queue {
            first: Owner::none(),
            last: Owner::none(),
            len: Cell::new(0),
            kind: PhantomData,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.get()
    }

    /// At the end, unless it is in.
    pub(super) fn push(&self, one: &Shared<T>) {
        if one.place().is_taken.replace(true) {
            return;
        }
        let before = match self.last.replace(Some(one.clone())) {
            Some(last) => last.place().next.replace(Some(one.clone())),
            None => self.first.replace(Some(one.clone())),
        };
        drop(before); // nothing
        self.len.set(self.len.get().wrapping_add(1));
    }

    pub(super) fn pop(&self) -> Option<Shared<T>> {
        let first = self.first.replace(None)?;
        let next = first.place().next.replace(None);
        if next.is_none() {
            drop(self.last.replace(None)); // the same
        }
        drop(self.first.replace(next)); // nothing
        first.place().is_taken.set(false);
        self.len.set(self.len.get().wrapping_sub(1));
        Some(first)
    }

    /// Takes out what is not to stay; the order is kept. What `stays` puts into the queue is not asked for.
    pub(super) fn retain(&self, mut stays: impl FnMut(&Shared<T>) -> bool) {
        for _ in 0..self.len() {
            if let Some(one) = self.pop()
                && stays(&one)
            {
                self.push(&one);
            }
        }
    }

    pub(super) fn clear(&self) {
        while self.pop().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, rc::Rc};

    use super::*;

    struct Numbers;
    struct Others;

    struct Number {
        value: usize,
        in_numbers: Place<Number>,
        in_others: Place<Number>,
        _alive: Rc<()>,
    }

    impl Linked<Numbers> for Number {
        fn place(&self) -> &Place<Number> {
            &self.in_numbers
        }
    }

    impl Linked<Others> for Number {
        fn place(&self) -> &Place<Number> {
            &self.in_others
        }
    }

    fn numbers(count: usize, alive: &Rc<()>) -> Vec<Shared<Number>> {
        let number = |value| {
            let number = Number {
                value,
                in_numbers: Place::new(),
                in_others: Place::new(),
                _alive: alive.clone(),
            };
            Shared::new(number).unwrap_or_else(|_| panic!("memory"))
        };
        (0..count).map(number).collect()
    }

    #[test]
    fn a_queue_is_what_a_plain_one_is() {
        let mut seed = 3_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from((seed >> 33) % below).expect("small")
        };
        let alive = Rc::new(());
        let all = numbers(20, &alive);
        let queue: Queue<Number, Numbers> = Queue::new();
        let other: Queue<Number, Others> = Queue::new();
        let mut plain: VecDeque<usize> = VecDeque::new();
        for _ in 0..20_000 {
            let number = random(20);
            match random(8) {
                0..=3 => {
                    queue.push(&all[number]);
                    other.push(&all[number]);
                    if !plain.contains(&number) {
                        plain.push_back(number);
                    }
                }
                4..=6 => {
                    assert_eq!(queue.pop().map(|one| one.value), plain.pop_front());
                    other.pop();
                }
                _ => {
                    queue.retain(|one| one.value != number);
                    plain.retain(|one| *one != number);
                }
            }
            assert_eq!(queue.len(), plain.len());
        }
        other.clear();
        let mut seen = Vec::new();
        queue.retain(|one| {
            seen.push(one.value);
            true
        });
        assert!(plain.iter().eq(&seen));
        queue.clear();
        drop(all);
        assert_eq!(Rc::strong_count(&alive), 1);
    }

    #[test]
    fn a_queue_keeps_what_stands_in_it_until_it_is_taken_out() {
        let alive = Rc::new(());
        let queue: Queue<Number, Numbers> = Queue::new();
        // Deep enough to overflow the stack, if one dropped the next.
        let all = numbers(200_000, &alive);
        all.iter().for_each(|one| queue.push(one));
        drop(all);
        assert_eq!(Rc::strong_count(&alive), 200_001);
        queue.clear();
        assert_eq!(Rc::strong_count(&alive), 1);
    }

    #[test]
    fn a_value_has_one_call_at_a_time() {
        let value = Turns::new(1);
        let within = value.with(|one| {
            *one += 1;
            value.with(|_| ())
        });
        assert_eq!(within, Ok(Err(NPFS_HOST_INTERNAL)));
        assert_eq!(value.with(|one| *one), Ok(2));
    }
}
