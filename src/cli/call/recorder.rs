//! The reply as it was heard, as a WAV file.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hound::{SampleFormat, WavSpec, WavWriter};

use crate::cli::call::player::Played;
use crate::media::format::Format;
use crate::media::transcode::Decoder;
use crate::time::Micros;

/// Writes what left the speaker, pauses included, from the first sound on.
pub struct Recorder {
    path: PathBuf,
    /// Opened with the first sound, so that a call that fails leaves an earlier reply alone.
    wav: Option<WavWriter<BufWriter<File>>>,
    format: Format,
    decoder: Decoder,
    pcm: Vec<i16>,
    begun: Option<Micros>,
    written: u64,
}

impl Recorder {
    /// A recorder of `format` into a file at `path`, made with the first sound.
    ///
    /// # Errors
    /// If no file can be there.
    pub fn create(path: &Path, format: Format) -> Result<Recorder, String> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if folder.is_some_and(|folder| !folder.is_dir()) || path.is_dir() {
            return Err(format!("cannot write {}: no file can be there; name another with --out", path.display()));
        }
        let decoder = Decoder::new(format, format.rate).map_err(|error| error.to_string())?;
        Ok(Recorder { path: path.to_owned(), wav: None, format, decoder, pcm: Vec::new(), begun: None, written: 0 })
    }

    /// This was played.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn record(&mut self, played: &Played) -> Result<(), String> {
        self.pcm.clear();
        if self.decoder.decode(&played.payload, &mut self.pcm).is_err() {
            return Ok(()); // silence takes its place in time
        }
        let heard = u64::from(played.ticks) * u64::from(self.format.rate) / u64::from(self.format.clock());
        self.pcm.truncate(heard as usize);
        let begun = *self.begun.get_or_insert(played.at);
        let due = played.at.since(begun).as_micros() as u64 * u64::from(self.format.rate) / 1_000_000;
        // Rounding moves a frame by less than a sample or two: only a real pause is one.
        let pause = due.saturating_sub(self.written);
        if pause > u64::from(self.format.rate) / 1000 {
            self.write(pause, 0)?;
        }
        for index in 0..self.pcm.len() {
            self.write(1, self.pcm[index])?;
        }
        Ok(())
    }

    /// How much was written.
    pub fn length(&self) -> Duration {
        Duration::from_micros(self.written * 1_000_000 / u64::from(self.format.rate))
    }

    /// Completes the file; gives its path.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(self) -> Result<PathBuf, String> {
        let Recorder { path, wav, .. } = self;
        wav.map_or(Ok(()), WavWriter::finalize).map_err(|error| cannot(&path, &error))?;
        Ok(path)
    }

    fn write(&mut self, count: u64, sample: i16) -> Result<(), String> {
        let wav = match &mut self.wav {
            Some(wav) => wav,
            none => {
                let (sample_rate, sample_format) = (self.format.rate, SampleFormat::Int);
                let spec = WavSpec { channels: 1, sample_rate, bits_per_sample: 16, sample_format };
                none.insert(WavWriter::create(&self.path, spec).map_err(|error| cannot(&self.path, &error))?)
            }
        };
        self.written += count;
        (0..count).try_for_each(|_| wav.write_sample(sample)).map_err(|error| cannot(&self.path, &error))
    }
}

fn cannot(path: &Path, error: &hound::Error) -> String {
    format!("cannot write {}: {error}; name another file with --out", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn pauses_and_cuts_are_as_heard() {
        let directory = std::env::temp_dir().join(format!("antiphon-recorder-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let format = Format::pcm16(8000);
        let mut recorder = Recorder::create(&directory.join("reply.wav"), format).expect("file");
        let payload = Bytes::from([7i16; 160].map(i16::to_le_bytes).concat());
        let played = |at, ticks| Played { at: Micros::from_millis(at), pos: 0, ticks, payload: payload.clone() };
        for span in [played(500, 160), played(520, 80), played(600, 160)] {
            recorder.record(&span).expect("writes");
        }
        assert_eq!(recorder.length(), Duration::from_millis(120));
        let path = recorder.finish().expect("writes");
        let read: Vec<i16> = hound::WavReader::open(path).expect("WAV").samples().map(|s| s.expect("sample")).collect();
        let expected = [vec![7; 240], vec![0; 560], vec![7; 160]].concat();
        assert_eq!(read, expected);
        std::fs::remove_dir_all(directory).expect("removes");
    }
}
