//! A gzip compressor that is used again.

use flate2::{Compress, Compression, Crc, FlushCompress, Status as Deflated};

/// It holds a quarter of a megabyte, so it is made only when somebody wants it.
pub(super) struct Gzip {
    deflate: Compress,
    output: Vec<u8>,
}

impl Gzip {
    pub fn new() -> Gzip {
        // The fastest level: metrics are so repetitive that the others gain little. The frame is ours, because flate2's
        // own encoder of it cannot be used twice.
        Gzip { deflate: Compress::new(Compression::fast(), false), output: Vec::new() }
    }

    pub fn compress(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        // Magic, deflate, no flags, no time, no level, no system; RFC 1952.
        const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
        self.output.clear();
        // Metrics compress to less than a quarter, so one buffer serves pages that grow a little.
        self.output.reserve(bytes.len() / 4 + 1024);
        self.output.extend_from_slice(&HEAD);
        self.deflate.reset();
        loop {
            let read = self.deflate.total_in() as usize;
            if self.output.capacity() - self.output.len() < 1024 {
                self.output.reserve(16 * 1024);
            }
            match self.deflate.compress_vec(&bytes[read..], &mut self.output, FlushCompress::Finish).ok()? {
                Deflated::StreamEnd => break,
                Deflated::Ok | Deflated::BufError => {}
            }
        }
        let mut check = Crc::new();
        check.update(bytes);
        self.output.extend_from_slice(&check.sum().to_le_bytes());
        self.output.extend_from_slice(&check.amount().to_le_bytes());
        Some(&self.output)
    }
}
