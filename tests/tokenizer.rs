//! Tokenizers: ids and text against other programs' answers, text that arrives in pieces, files that are bad.

use libtest_mimic::{Failed, Trial};
use nanomoe::tokenizer::{Specials, Tokenizer};

use crate::common::{Scratch, default_model};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("tokenizer::gpt2", gpt2),
        Trial::test("tokenizer::default_model", default),
        Trial::test("tokenizer::round_trip", round_trip),
        Trial::test("tokenizer::stream", stream),
        Trial::test("tokenizer::rank_file", rank_file),
        Trial::test("tokenizer::refused", refused),
    ];
    trials.push(llama());
    trials.push(with_feature(cfg!(feature = "sentencepiece"), "features::sentencepiece", sentencepiece));
    trials
}

/// Ids that OpenAI's tiktoken gives for these texts with its encoding `gpt2`.
fn gpt2() -> Result<(), Failed> {
    let tokenizer = Tokenizer::gpt2()?;
    assert_eq!((tokenizer.num_ids(), tokenizer.end_of_text()), (50257, Some(50256)));
    for (text, ids) in GPT2_CASES {
        assert_eq!(tokenizer.encode(text, Specials::Text)?, *ids, "{text:?}");
        assert_eq!(tokenizer.decode(ids)?, *text);
    }
    assert_eq!(tokenizer.encode("a<|endoftext|>b", Specials::Parse)?, [64, 50256, 65]);
    assert_eq!(tokenizer.undecodable(50257), Vec::<u32>::new());
    assert_eq!(tokenizer.undecodable(50304), (50257..50304).collect::<Vec<u32>>());
    Ok(())
}

/// The prompt and the continuation that PyTorch made, in `greedy.json`.
fn default() -> Result<(), Failed> {
    let dir = default_model();
    let tokenizer = Tokenizer::for_model(&dir, 4096)?;
    let greedy: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("greedy.json"))?)?;
    let ids: Vec<u32> =
        greedy["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let text = ["prompt", "text"].map(|part| greedy[part].as_str().unwrap()).concat();
    assert_eq!(tokenizer.decode(&ids)?, text);
    assert_eq!(tokenizer.encode(&text, Specials::Text)?, ids);
    assert_eq!((tokenizer.num_ids(), tokenizer.end_of_text()), (4096, Some(0)));
    assert_eq!(tokenizer.undecodable(4096), Vec::<u32>::new());
    Ok(())
}

fn round_trip() -> Result<(), Failed> {
    use proptest::prelude::*;
    let tokenizers = [Tokenizer::gpt2()?, Tokenizer::for_model(&default_model(), 4096)?];
    proptest!(|(text in "(\\PC|[ \n\t\r]){0,60}")| {
        for tokenizer in &tokenizers {
            let ids = tokenizer.encode(&text, Specials::Text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.clone());
        }
    });
    Ok(())
}

/// Characters of several tokens come out whole, and what comes out is the text.
fn stream() -> Result<(), Failed> {
    let tokenizer = Tokenizer::gpt2()?;
    let text = "naïve 🦀🦀 日本語 — done 🧬";
    let ids = tokenizer.encode(text, Specials::Text)?;
    let mut stream = tokenizer.stream(&[]);
    let mut pieces = Vec::new();
    for &id in &ids {
        pieces.push(stream.push(id)?);
    }
    assert_eq!(stream.finish()?, "");
    assert_eq!(pieces.concat(), text);
    assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
    assert!(pieces.iter().any(String::is_empty), "no character was cut: the text tests nothing");
    assert!(pieces.len() > 10, "it all came out at the end: {pieces:?}");

    // The first two tokens of a crab alone: nothing until the end, which says that something is missing.
    let crab = tokenizer.encode("🦀", Specials::Text)?;
    let mut stream = tokenizer.stream(&ids);
    assert_eq!(stream.push(crab[0])?, "");
    assert_eq!(stream.finish()?, "\u{fffd}");
    // Bytes that can become nothing are not waited for: 0xff is one token.
    let mut stream = tokenizer.stream(&[]);
    let id = (0..256).find(|&id| tokenizer.decode_bytes(&[id]).unwrap() == [0xff]).unwrap();
    assert_eq!(stream.push(id)?, "\u{fffd}");
    Ok(())
}

/// A rank file of one's own: the 256 bytes and one merge.
fn rank_file() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let mut ranks: String = (0..=255u8).map(|byte| format!("{} {byte}\n", base64(&[byte]))).collect();
    ranks += &format!("{} 256\n", base64(b"ab"));
    std::fs::write(scratch.0.join("tokenizer.tiktoken"), &ranks)?;
    // GPT-2's special, 50256, is not among these ranks nor behind the last.
    let tokenizer = Tokenizer::for_model(&scratch.0, 257)?;
    assert_eq!((tokenizer.num_ids(), tokenizer.end_of_text()), (257, None));
    assert_eq!(tokenizer.encode("cab\n", Specials::Text)?, [99, 256, 10]);
    assert_eq!(tokenizer.undecodable(260), [257, 258, 259]);
    let error = Tokenizer::for_model(&scratch.0, 256).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.tiktoken: holds id 256, but the model's vocabulary ends at 255"),
        "{error}"
    );

    // As many ranks as GPT-2 has: there it belongs; one rank more, and its id is a word's.
    for (num_ranks, end_of_text) in [(50256, Some(50256)), (50257, None)] {
        let mut ranks = ranks.clone();
        for rank in 257..num_ranks {
            let word: Vec<u8> = [&b"rank"[..], rank.to_string().as_bytes()].concat();
            ranks += &format!("{} {rank}\n", base64(&word));
        }
        std::fs::write(scratch.0.join("tokenizer.tiktoken"), ranks)?;
        assert_eq!(Tokenizer::for_model(&scratch.0, 50257)?.end_of_text(), end_of_text, "{num_ranks} ranks");
    }
    Ok(())
}

fn refused() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let error = Tokenizer::for_model(&scratch.0, 4096).unwrap_err().to_string();
    assert!(error.contains("a vocabulary of 4096 is not GPT-2's (50257 or 50304)"), "{error}");
    assert_eq!(Tokenizer::for_model(&scratch.0, 50304)?.num_ids(), 50257);
    let error = Tokenizer::for_model(&default_model(), 4000).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json: holds id 4095, but the model's vocabulary ends at 3999"),
        "{error}"
    );

    let path = scratch.0.join("tokenizer.json");
    for text in ["", "{", "{}", "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "binary\u{1}"] {
        std::fs::write(&path, text)?;
        let error = Tokenizer::for_model(&scratch.0, 50257).expect_err(text).to_string();
        assert!(error.contains("tokenizer.json: ") && !error.contains('\n'), "{text:?}: {error:?}");
    }
    let tokenizer = Tokenizer::gpt2()?;
    assert!(tokenizer.decode(&[50300]).unwrap_err().to_string().contains("50300"));
    Ok(())
}

/// A trial of a feature that this build may not have.
pub fn with_feature(is_on: bool, name: &str, run: fn() -> Result<(), Failed>) -> Trial {
    if is_on {
        return Trial::test(name, run);
    }
    Trial::test(name, || Ok(())).with_kind("built without the feature").with_ignored_flag(true)
}

/// A SentencePiece model written by hand: a protobuf of pieces, the trainer's settings and the normaliser's.
fn sentencepiece() -> Result<(), Failed> {
    // A field of bytes, and one of a small number.
    let bytes = |field: u8, value: &[u8]| [&[field << 3 | 2, value.len() as u8][..], value].concat();
    let number = |field: u8, value: u8| vec![field << 3, value];
    let (normal, unknown, control) = (1, 2, 3);
    let pieces = [
        ("<unk>", 0.0f32, unknown),
        ("<s>", 0.0, control),
        ("</s>", 0.0, control),
        ("ab", -1.0, normal),
        ("\u{2581}ab", -2.0, normal),
        ("\u{2581}", -3.0, normal),
        ("a", -4.0, normal),
        ("b", -5.0, normal),
        ("c", -6.0, normal),
    ];
    let mut model = Vec::new();
    for (text, score, kind) in pieces {
        let score = [&[2 << 3 | 5][..], &score.to_le_bytes()].concat();
        model.extend(bytes(1, &[bytes(1, text.as_bytes()), score, number(3, kind)].concat()));
    }
    let byte_pairs = 2;
    model.extend(bytes(2, &number(3, byte_pairs)));
    model.extend(bytes(3, &bytes(1, b"identity")));

    let scratch = Scratch::new();
    std::fs::write(scratch.0.join("tokenizer.model"), &model)?;
    let tokenizer = Tokenizer::for_model(&scratch.0, 9)?;
    assert_eq!((tokenizer.num_ids(), tokenizer.end_of_text()), (9, Some(2)));
    for (text, ids) in [("ab", &[4][..]), ("abc ab", &[4, 8, 4]), ("ca", &[5, 8, 6])] {
        assert_eq!(tokenizer.encode(text, Specials::Text)?, ids, "{text:?}");
        assert_eq!(tokenizer.decode(ids)?, text);
    }
    // The space of a word that goes on is given out, the one that only begins a text is not.
    let mut stream = tokenizer.stream(&[4]);
    assert_eq!(stream.push(4)?, " ab");
    std::fs::write(scratch.0.join("tokenizer.model"), &model[..model.len() - 3])?;
    let error = Tokenizer::for_model(&scratch.0, 9).unwrap_err().to_string();
    assert!(error.contains("tokenizer.model: ") && !error.contains('\n'), "{error}");
    Ok(())
}

/// The article's own example.
fn llama() -> Trial {
    const VARIABLE: &str = "NANOMOE_LLAMA_TOKENIZER";
    let name = "tokenizer::article_llama_3_1";
    match std::env::var_os(VARIABLE) {
        None => Trial::test(name, || Ok(()))
            .with_kind(format!("{VARIABLE} does not name Llama-3.1's tokenizer.json"))
            .with_ignored_flag(true),
        Some(path) => Trial::test(name, move || {
            let tokenizer = Tokenizer::from_file(path.as_ref())?;
            let ids = [2028, 7257, 1495, 690, 387, 4037, 1534];
            assert_eq!(tokenizer.encode("This raw text will be tokenized", Specials::Text)?, ids);
            assert_eq!(tokenizer.decode(&ids)?, "This raw text will be tokenized");
            Ok(())
        }),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.chunks(3).flat_map(|group| {
        let word = group.iter().chain([&0; 2]).take(3).fold(0usize, |word, &byte| word << 8 | byte as usize);
        (0..4).map(move |digit| {
            let inside = digit <= group.len();
            if inside { DIGITS[word >> (18 - 6 * digit) & 63] as char } else { '=' }
        })
    });
    groups.collect()
}

const GPT2_CASES: &[(&str, &[u32])] = &[
    ("Hello, world!", &[15496, 11, 995, 0]),
    ("Once upon a time", &[7454, 2402, 257, 640]),
    (
        "two  spaces\n\n\nand\tlines \n end  ",
        &[11545, 220, 9029, 628, 198, 392, 197, 6615, 220, 198, 886, 220, 220],
    ),
    ("it's we'll IT'S 12345 x86_64", &[270, 338, 356, 1183, 7283, 6, 50, 17031, 2231, 2124, 4521, 62, 2414]),
    (
        "na\u{ef}ve \u{65e5}\u{672c}\u{8a9e} \u{1f980}",
        &[2616, 38776, 10545, 245, 98, 17312, 105, 45739, 252, 12520, 99, 222],
    ),
    ("   ", &[220, 220, 220]),
    ("a<|endoftext|>b", &[64, 27, 91, 437, 1659, 5239, 91, 29, 65]),
    ("e\u{301}\u{a0}\u{2028}x", &[68, 136, 223, 1849, 447, 101, 87]),
    ("", &[]),
];
