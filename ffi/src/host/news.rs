//! What the doorbell tells: whoever was rung for is looked at, and the host hears of what it has to know, once it is all
//! known and nothing is borrowed: it may do anything in its callback. Nothing here fails for want of memory.

use npfs_ringbuf::{End, Shared};

use super::{
    conns::Connection,
    server::{NPFS_SRV_PEER_GONE, NPFS_SRV_ROLE_FREE, NPFS_SRV_SIGNALED, NPFS_SRV_TICKET},
    slabs::{OnLink, Server, count},
};

/// Looks at everything that was rung for, and calls `tell` with a cookie and events for each that has news.
pub(super) fn doorbell(server: &Server, mut tell: impl FnMut(u64, u32)) {
    server.collect();
    // What becomes due from here on has its turn next time.
    let (links, conns) = (server.due_links.len(), server.due.len());
    for _ in 0..links {
        let link = server.due_links.pop().map(|link| Shared::faint(&link));
        // What nobody else has any more is not listened to again, however often it is rung there.
        if let Some(link) = link.and_then(|link| link.find()) {
            look_at_link(server, &link);
        }
    }
    for _ in 0..conns {
        if let Some(conn) = server.due.pop() {
            is_free(server, &conn);
        }
    }
    while let Some(ticket) = server.told_tickets.pop() {
        // An earlier callback may have taken it, or have ended it all.
        if !ticket.is_over() && !server.has_ended() {
            count(&ticket.own.conn.served.callbacks);
            tell(ticket.cookie, NPFS_SRV_TICKET);
        }
    }
    while let Some(conn) = server.told.pop() {
        for (event, cookie) in conn.events.iter().zip(conn.cookies) {
            let event = event.take();
            if event != 0 && !conn.is_dead.get() && !server.has_ended() {
                count(&conn.served.callbacks);
                tell(cookie, event);
            }
        }
    }
}

fn note(server: &Server, conn: &Shared<Connection>, end: End, event: u32) {
    let events = &conn.events[end as usize];
    events.set(events.get() | event);
    server.told.push(conn);
}

/// Takes the ready slots, once: what is marked meanwhile has its turn at the next doorbell.
fn look_at_link(server: &Server, link: &Shared<OnLink>) {
    link.link.own_bell().take(|slot| {
        // A bit may be anybody's, for any slot.
        if let Some(conn) = link.at(slot) {
            look_at(server, &conn);
        }
    });
    OnLink::listen(link, server);
}

/// Somebody is out of the way.
fn is_free(server: &Server, conn: &Shared<Connection>) {
    for end in [End::Client, End::Server] {
        if conn.is_owed[end as usize].take() {
            note(server, conn, end, NPFS_SRV_ROLE_FREE);
        }
    }
    look_at(server, conn);
}

fn look_at(server: &Server, conn: &Shared<Connection>) {
    conn.pending.retain(|ticket| {
        let is_new = !ticket.is_told.get() && ticket.move_on();
        if is_new {
            ticket.is_told.set(true);
            server.told_tickets.push(ticket);
        }
        !ticket.is_told.get()
    });
    for end in [End::Client, End::Server] {
        if conn.watched[end as usize].get() && conn.is_signaled(end) {
            note(server, conn, end, NPFS_SRV_SIGNALED);
        }
        if conn.has_lost_its_peer(end) {
            conn.knows_of_end[end as usize].set(true);
            note(server, conn, end, NPFS_SRV_PEER_GONE);
        }
    }
}
