//! What must hold for any bytes that a client sends: the fuzz target and a plain test share this.

use orlop::git::{
    Head, ObjectId, Selection,
    pkt::{Packet, Reader},
    upload_pack::{Answer, Asked, History, Version, answer},
};

/// A history of these commits, the oldest first.
pub(crate) struct Linear {
    pub(crate) commits: Vec<ObjectId>,
    pub(crate) first: u64,
}

impl Linear {
    /// The ids as in a file, one a line.
    pub(crate) fn of_lines(lines: &str) -> Linear {
        let ids = lines
            .lines()
            .map(|hex| ObjectId::from_hex(hex.as_bytes()).expect("an id"));
        Linear {
            commits: ids.collect(),
            first: 1,
        }
    }
}

impl History for Linear {
    fn head(&self) -> Option<Head> {
        let id = *self.commits.last()?;
        Some(Head {
            id,
            generation: self.first + self.commits.len() as u64 - 1,
        })
    }

    fn generation_of(&self, commit: &ObjectId) -> Option<u64> {
        let place = self.commits.iter().position(|known| known == commit)?;
        Some(self.first + place as u64)
    }

    fn commit_of(&self, generation: u64) -> Option<ObjectId> {
        let place = generation.checked_sub(self.first)?;
        self.commits.get(usize::try_from(place).ok()?).copied()
    }

    fn oldest(&self) -> Option<u64> {
        (!self.commits.is_empty()).then_some(self.first)
    }
}

/// The versions of the protocol.
pub(crate) const VERSIONS: [Version; 3] = [Version::V0, Version::V1, Version::V2];

/// Asks with `body` in each version, and looks at the answers.
pub(crate) fn check(history: &Linear, body: &[u8]) {
    for version in VERSIONS {
        let answered = answer(history, version, body);
        look_at(history, body, &answered);
        assert_eq!(
            answered,
            answer(history, version, body),
            "the same each time"
        );
    }
}

fn look_at(history: &Linear, body: &[u8], answer: &Answer) {
    // An answer may repeat what it was asked, line by line, and no more: no amplification.
    assert!(answer.head.len() <= 2 * body.len() + 4096);
    let mut packets = Reader::new(&answer.head);
    let mut count = 0;
    while let Some(packet) = packets.packet().expect("answers are packets") {
        count += 1;
        let error = packet.line().is_some_and(|line| line.starts_with(b"ERR "));
        assert_eq!(error, answer.asked == Asked::Refused);
        assert!(packet != Packet::ResponseEnd);
    }
    assert!(answer.asked != Asked::Refused || count == 1);
    let Some(plan) = &answer.pack else {
        return;
    };
    assert_eq!(answer.asked, Asked::Fetch);
    let head = history
        .head()
        .expect("only what is there is sent")
        .generation;
    let known = |generation: &u64| (history.first..=head).contains(generation);
    match &plan.selection {
        Selection::History { have } => assert!(have.as_ref().is_none_or(known)),
        Selection::Shallow { oldest, have } => {
            assert!((history.first..=head + 1).contains(oldest), "{oldest}");
            assert!(
                have.iter().all(known) && have.is_sorted() && have.len() <= 2,
                "{have:?}"
            );
        }
    }
}
