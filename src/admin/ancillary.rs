//! Bytes with descriptors on them, over a unix socket.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::MOST_FILES;

const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_FILES));

/// Sends bytes, and `files` with the first of them. Gives back how many bytes went.
///
/// # Errors
/// What the system says; `WouldBlock` sent nothing.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], files: &[OwnedFd]) -> io::Result<usize> {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("there are too many files for one request"));
    }
    let slices = [IoSlice::new(bytes)];
    Ok(sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives bytes into `bytes`, and the descriptors that came with them into `files`. Gives back
/// how many bytes came, 0 at the end.
///
/// # Errors
/// What the system says, and where more descriptors came than a request may have.
pub(super) fn receive(
    socket: impl AsFd,
    bytes: &mut [u8],
    files: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(bytes)];
    let received = recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            files.extend(descriptors);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || files.len() > MOST_FILES {
        return Err(io::Error::other("too many files came with the request"));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Seek as _, Write as _},
        os::unix::net::UnixStream,
    };

    use super::*;

    fn file(text: &str) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file.into()
    }

    #[test]
    fn files_arrive_in_order_with_the_bytes_and_close_on_exec() {
        let (here, there) = UnixStream::pair().unwrap();
        let texts: Vec<String> = (0..MOST_FILES).map(|count| count.to_string()).collect();
        let files: Vec<OwnedFd> = texts.iter().map(|text| file(text)).collect();
        assert_eq!(send(&here, b"head", &files).unwrap(), 4);
        let (mut bytes, mut arrived) = ([0; 4], Vec::new());
        // Read in two pieces: the files come with the first.
        assert_eq!(receive(&there, &mut bytes[..1], &mut arrived).unwrap(), 1);
        assert_eq!(receive(&there, &mut bytes[1..], &mut arrived).unwrap(), 3);
        assert_eq!(&bytes, b"head");
        let flags = rustix::io::fcntl_getfd(&arrived[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let read = |descriptor: OwnedFd| {
            let mut text = String::new();
            File::from(descriptor).read_to_string(&mut text).unwrap();
            text
        };
        let arrived: Vec<String> = arrived.into_iter().map(read).collect();
        assert_eq!(arrived, texts);
    }

    #[test]
    fn more_files_than_a_request_may_have_are_refused() {
        let (here, there) = UnixStream::pair().unwrap();
        let files: Vec<OwnedFd> = (0..MOST_FILES).map(|_| file("")).collect();
        send(&here, b"a", &files).unwrap();
        send(&here, b"b", &files[..1]).unwrap();
        let (mut byte, mut arrived) = ([0], Vec::new());
        receive(&there, &mut byte, &mut arrived).unwrap();
        assert!(receive(&there, &mut byte, &mut arrived).is_err());
    }
}
