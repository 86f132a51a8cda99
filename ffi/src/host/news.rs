//! What the doorbell tells: whoever was rung for is looked at, and the host hears of what it has to know, once it is all
//! known and nothing is borrowed: it may do anything in its callback.

use std::{
    collections::HashMap,
    rc::{Rc, Weak},
};

use npfs_ringbuf::End;

use super::{
    conns::{Connection, Ticket},
    server::{NPFS_SRV_PEER_GONE, NPFS_SRV_ROLE_FREE, NPFS_SRV_SIGNALED, NPFS_SRV_TICKET},
    slabs::{OnLink, Server, Waited, count},
};

/// What is to be told, in the order in which it was found.
#[derive(Default)]
struct News {
    /// Events by side.
    conns: Vec<(Rc<Connection>, [u32; 2])>,
    /// Where each of them stands.
    places: HashMap<*const Connection, usize>,
    tickets: Vec<Rc<Ticket>>,
}

impl News {
    fn of(&mut self, conn: &Rc<Connection>, end: End, event: u32) {
        let at = *self.places.entry(Rc::as_ptr(conn)).or_insert_with(|| {
            self.conns.push((conn.clone(), [0; 2]));
            self.conns.len() - 1
        });
        self.conns[at].1[end as usize] |= event;
    }
}

/// Looks at everything that was rung for, and calls `tell` with a cookie and events for each that has news.
pub(super) fn doorbell(server: &Rc<Server>, mut tell: impl FnMut(u64, u32)) {
    let mut news = News::default();
    for what in server.collect() {
        match what {
            Waited::Bell(link) => {
                if let Some(link) = link.upgrade() {
                    look_at_link(server, &link, &mut news);
                }
            }
            Waited::Obstacle(conn, word) => {
                if let Some(conn) = conn.upgrade() {
                    conn.passed(word);
                    is_free(&conn, &mut news);
                }
            }
            Waited::Nobody(conn) => {
                if let Some(conn) = conn.upgrade() {
                    is_free(&conn, &mut news);
                }
            }
        }
    }
    for ticket in news.tickets {
        // An earlier callback may have taken it, or have ended it all.
        if !ticket.is_over() && !server.has_ended() {
            count(&ticket.conn.served.callbacks);
            tell(ticket.cookie, NPFS_SRV_TICKET);
        }
    }
    for (conn, events) in news.conns {
        for end in [End::Client, End::Server] {
            let event = events[end as usize];
            if event != 0 && !conn.is_dead.get() && !server.has_ended() {
                count(&conn.served.callbacks);
                tell(conn.cookies[end as usize], event);
            }
        }
    }
}

/// Takes the ready slots, until the bell is armed again or it has been rung too often meanwhile: the others have their turn.
fn look_at_link(server: &Rc<Server>, link: &Rc<OnLink>, news: &mut News) {
    let mut slots = Vec::new();
    link.link.own_bell().take(|slot| slots.push(slot));
    for slot in slots {
        // A bit may be anybody's, for any slot.
        if let Some(conn) = link.at(slot) {
            look_at(&conn, news);
        }
    }
    link.listen(server);
}

/// Somebody is out of the way.
fn is_free(conn: &Rc<Connection>, news: &mut News) {
    for end in [End::Client, End::Server] {
        if conn.is_owed[end as usize].take() {
            news.of(conn, end, NPFS_SRV_ROLE_FREE);
        }
    }
    look_at(conn, news);
}

fn look_at(conn: &Rc<Connection>, news: &mut News) {
    let tickets: Vec<_> = conn
        .tickets
        .borrow()
        .iter()
        .filter_map(Weak::upgrade)
        .collect();
    for ticket in tickets {
        if !ticket.is_told.get() && conn.move_on(&ticket) {
            ticket.is_told.set(true);
            news.tickets.push(ticket);
        }
    }
    for end in [End::Client, End::Server] {
        if conn.watched[end as usize].get() && conn.is_signaled(end) {
            news.of(conn, end, NPFS_SRV_SIGNALED);
        }
        if conn.has_lost_its_peer(end) {
            conn.knows_of_end[end as usize].set(true);
            news.of(conn, end, NPFS_SRV_PEER_GONE);
        }
    }
}
