//! The page of `nanomoe routing --html`: well-formed, sufficient to itself, and true to what the routers decided.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use libtest_mimic::{Failed, Trial};
use nanomoe::cpu::CpuOperations;
use nanomoe::model::{Forward, ForwardOutput, Model, MoeMode};
use nanomoe::tensor::DType;
use nanomoe::tokenizer::{Specials, Tokenizer};
use nanomoe::weights::Checkpoint;
use serde_json::json;

use crate::common::{Draft, Scratch, default_model, golden};

/// Of the default model.
const VOCAB_SIZE: usize = 4096;
/// Markup, white space that HTML folds, a line's end, and text of more than one byte a character.
const TEXT: &str = "if (a < b && c > \"d\") {\n    return  &amp; 'é' </span>;\n}";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("routing_html::contents", contents),
        Trial::test("routing_html::long_text", long_text),
        Trial::test("routing_html::dense", dense),
        Trial::test("routing_html::bad_arguments", bad_arguments),
        in_a_browser(),
    ]
}

fn routing(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nanomoe"))
        .arg("routing")
        .args(args)
        .args(["--device", "cpu"])
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// The page of a text, written into a folder of its own.
fn write_page(folder: &Scratch, args: &[&str]) -> Result<(PathBuf, String), Failed> {
    let path = folder.0.join("page.html");
    let output = routing(&[args, &["--html", text(&path)]].concat());
    if output.status.code() != Some(0) {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let page = std::fs::read_to_string(&path)?;
    let others: Vec<_> =
        std::fs::read_dir(&folder.0)?.filter_map(|e| e.ok()).map(|e| e.file_name()).collect();
    assert_eq!(others, ["page.html"], "nothing but the page is left");
    Ok((path, page))
}

/// What the page is to show.
fn decided(text: &str, head: (usize, usize)) -> Result<(Vec<String>, ForwardOutput), Failed> {
    let ops = CpuOperations::new();
    let model = Model::load(&ops, &Checkpoint::open(&default_model())?, DType::F32)?;
    let tokenizer = Tokenizer::for_model(&default_model(), model.config().vocab_size)?;
    let ids = tokenizer.encode(text, Specials::Parse)?;
    let mut workspace = model.workspace(&ops, ids.len())?;
    let request = Forward {
        moe: MoeMode::Capacity,
        routing: true,
        attention_weights: Some(head),
        ..Forward::default()
    };
    let output = model.forward(&ops, &mut workspace, 1, &ids, &request)?;
    Ok((ids.iter().map(|&id| tokenizer.token_text(id)).collect(), output))
}

fn contents() -> Result<(), Failed> {
    let folder = Scratch::new();
    let (_, page) = write_page(&folder, &[TEXT, "--attention", "3:1"])?;
    let root = parse(&page)?;
    let (tokens, output) = decided(TEXT, (3, 1))?;

    for layer in &output.routing {
        let spans = root.find(&format!("tokens-{}", layer.layer))?.all("span");
        assert_eq!(spans.len(), tokens.len(), "layer {}", layer.layer);
        for (at, (span, token)) in spans.iter().zip(&tokens).enumerate() {
            let k = layer.num_experts_per_token;
            let choices = at * k..(at + 1) * k;
            let first = layer.expert_ids[at * k];
            assert_eq!(span.text(), format!("{}{first}", token.replace('\n', "↵")), "token {at}");
            let mut classes = format!("token e{first}");
            if layer.slots[at * k] < 0 {
                classes += " dropped";
            }
            assert_eq!(span.attribute("class"), Some(&classes[..]));
            let title = span.attribute("title").unwrap_or_default();
            assert_eq!(title.matches("expert ").count(), k);
            assert_eq!(
                title.matches("dropped").count(),
                choices.clone().filter(|&choice| layer.slots[choice] < 0).count()
            );
            for choice in choices {
                let said =
                    format!("expert {} ({:.2}", layer.expert_ids[choice], layer.expert_weights[choice]);
                assert!(title.contains(&said), "{title} lacks {said}");
            }
        }
    }

    let rows = root.find("load")?.all("tr");
    assert_eq!(rows.len(), 1 + output.routing.len());
    for (row, layer) in rows[1..].iter().zip(&output.routing) {
        assert_eq!(row.all("th")[0].text(), layer.layer.to_string());
        let cells: Vec<String> = row.all("td").iter().map(|cell| cell.text()).collect();
        let chosen = layer.chosen_per_expert();
        let all: i32 = chosen.iter().sum();
        for (cell, chosen) in cells.iter().zip(&chosen) {
            assert_eq!(*cell, format!("{chosen} ({:.0}%)", 100.0 * f64::from(*chosen) / f64::from(all)));
        }
        assert_eq!(cells[layer.num_experts], layer.num_dropped().to_string());
    }

    let attention = root.find("attention")?;
    assert_eq!(attention.all("h2")[0].text(), "Attention of layer 3, head 1");
    let rows = attention.all("tr");
    assert_eq!(rows.len(), 1 + tokens.len());
    for (query, row) in rows[1..].iter().enumerate() {
        let cells: Vec<String> = row.all("td").iter().map(|cell| cell.text()).collect();
        let weights = &output.attention_weights[query * tokens.len()..][..tokens.len()];
        let percent = |(key, weight): (usize, &f32)| match key <= query {
            true => format!("{:.0}", 100.0 * f64::from(*weight)),
            false => String::new(),
        };
        let expected: Vec<String> = weights.iter().enumerate().map(percent).collect();
        assert_eq!(cells, expected, "token {query}");
    }
    Ok(())
}

/// Of many tokens all have their experts, and the first their attention.
fn long_text() -> Result<(), Failed> {
    let folder = Scratch::new();
    let (_, page) = write_page(&folder, &[&"Once upon a time there was a king. ".repeat(10)])?;
    let root = parse(&page)?;
    let attention = root.find("attention")?;
    assert_eq!(attention.all("tr").len(), 65);
    assert!(attention.all("caption")[0].text().contains("the first 64 of "), "{page}");
    Ok(())
}

fn dense() -> Result<(), Failed> {
    // A dense model with the default model's vocabulary: what more ids it has are zeros.
    let mut draft = Draft::read(&golden("nanomoe-dense"));
    let small = draft.config.insert("vocab_size".into(), json!(VOCAB_SIZE));
    let small = small.and_then(|size| size.as_u64()).expect("a vocabulary") as usize;
    for tensor in draft.tensors.iter_mut().filter(|tensor| tensor.shape[0] == small) {
        tensor.bytes.resize(tensor.bytes.len() / small * VOCAB_SIZE, 0);
        tensor.shape[0] = VOCAB_SIZE;
    }
    let model = draft.write();
    std::fs::copy(default_model().join("tokenizer.json"), model.0.join("tokenizer.json"))?;
    let folder = Scratch::new();
    let (_, page) = write_page(&folder, &["Once upon a time", "--model", text(&model.0)])?;
    let root = parse(&page)?;
    assert!(root.find("dense")?.text().contains("no layer has experts"));
    assert!(root.find("attention").is_ok() && root.find("tokens").is_err());
    Ok(())
}

fn bad_arguments() -> Result<(), Failed> {
    let folder = Scratch::new();
    let page = folder.0.join("page.html");
    for attention in ["6:0", "0:99", "0", "a:b", "1:", "-1:0", "0:0:0"] {
        let output = routing(&["--html", text(&page), &format!("--attention={attention}")]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{attention}: {told}");
        assert!(told.contains("LAYER:HEAD") && told.lines().count() == 1, "{told}");
        assert!(!page.exists());
    }
    // Without a page there is no attention to show.
    assert_eq!(routing(&["--attention", "0:0"]).status.code(), Some(2));
    let missing = folder.0.join("missing/page.html");
    let output = routing(&["--html", text(&missing)]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("missing/page.html"), "{told}");
    Ok(())
}

/// Opens the page without a screen and takes a picture of it.
fn in_a_browser() -> Trial {
    const NAME: &str = "routing_html::in_a_browser";
    const BROWSERS: [&str; 5] = ["chromium", "chromium-browser", "google-chrome", "chrome", "firefox"];
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = BROWSERS.iter().find_map(|name| {
        std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file())
    });
    let Some(browser) = found else {
        return Trial::test(NAME, || Ok(()))
            .with_kind("there is no chromium, chrome or firefox")
            .with_ignored_flag(true);
    };
    Trial::test(NAME, move || {
        let folder = Scratch::new();
        let (page, _) = write_page(&folder, &[TEXT])?;
        let picture = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("routing.png");
        let _ = std::fs::remove_file(&picture);
        let mut command = Command::new(&browser);
        if browser.ends_with("firefox") {
            command.args(["--headless", "--no-remote", "--profile", text(&folder.0)]);
            command.args(["--screenshot", text(&picture), "--window-size=800,1600"]);
        } else {
            command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
            command.arg(format!("--user-data-dir={}", text(&folder.0.join("profile"))));
            command.arg(format!("--screenshot={}", text(&picture))).arg("--window-size=800,1600");
        }
        let output = command.arg(format!("file://{}", text(&page))).stdin(Stdio::null()).output()?;
        let bytes = std::fs::read(&picture)
            .map_err(|error| format!("no picture ({error}): {}", String::from_utf8_lossy(&output.stderr)))?;
        if !bytes.starts_with(b"\x89PNG") || bytes.len() < 10_000 {
            return Err(format!("{} bytes are no picture of the page", bytes.len()).into());
        }
        Ok(())
    })
}

/// An element of a page, or text in one.
#[derive(Debug)]
enum Node {
    Element(Element),
    Text(String),
}

#[derive(Debug)]
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    children: Vec<Node>,
}

impl Element {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }

    fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|child| match child {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// All elements of a name inside, in order.
    fn all(&self, name: &str) -> Vec<&Element> {
        let mut found = Vec::new();
        for element in self.elements() {
            if element.name == name {
                found.push(element);
            }
            found.extend(element.all(name));
        }
        found
    }

    fn find(&self, id: &str) -> Result<&Element, Failed> {
        let here = self.elements().find(|element| element.attribute("id") == Some(id));
        here.or_else(|| self.elements().find_map(|element| element.find(id).ok()))
            .ok_or_else(|| format!("there is no element {id}").into())
    }

    fn text(&self) -> String {
        let text = |child: &Node| match child {
            Node::Element(element) => element.text(),
            Node::Text(text) => text.clone(),
        };
        self.children.iter().map(text).collect()
    }
}

/// The page as a tree. Stricter than HTML: elements are closed in the order they were opened, attributes have quoted values,
/// what is no markup is escaped; ids are unique; and nothing is fetched from anywhere.
fn parse(page: &str) -> Result<Element, Failed> {
    for foreign in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
        if page.contains(foreign) {
            return Err(format!("the page refers to something else: {foreign}").into());
        }
    }
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n").ok_or("the page has no doctype")?;
    let root = Element { name: String::new(), attributes: Vec::new(), children: Vec::new() };
    let mut open = vec![root];
    let mut ids = HashSet::new();
    while !rest.is_empty() {
        let top = open.last_mut().ok_or("more is closed than was opened")?;
        let Some(tag) = rest.strip_prefix('<') else {
            let end = rest.find('<').unwrap_or(rest.len());
            // A style sheet is no text: nothing in it is escaped.
            let text = if top.name == "style" { rest[..end].to_owned() } else { unescape(&rest[..end])? };
            top.children.push(Node::Text(text));
            rest = &rest[end..];
            continue;
        };
        let (tag, behind) = tag.split_once('>').ok_or("a tag that does not end")?;
        rest = behind;
        if let Some(name) = tag.strip_prefix('/') {
            let closed = open.pop().filter(|element| element.name == name);
            let closed = closed.ok_or_else(|| format!("</{name}> closes something else"))?;
            open.last_mut().ok_or("the root was closed")?.children.push(Node::Element(closed));
            continue;
        }
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
            return Err(format!("<{tag}> is no tag").into());
        }
        let mut element = Element { name: name.to_owned(), attributes: Vec::new(), children: Vec::new() };
        while !attributes.is_empty() {
            let (key, value) =
                attributes.split_once("=\"").ok_or_else(|| format!("<{tag}>: {attributes}"))?;
            let (value, behind) = value.split_once('"').ok_or_else(|| format!("<{tag}>: {attributes}"))?;
            if element.attribute(key).is_some() || (key == "id" && !ids.insert(value.to_owned())) {
                return Err(format!("<{tag}>: {key} twice").into());
            }
            element.attributes.push((key.to_owned(), unescape(value)?));
            attributes = behind.trim_start();
        }
        match name {
            "meta" | "br" => top.children.push(Node::Element(element)),
            _ => open.push(element),
        }
    }
    match <[Element; 1]>::try_from(open) {
        Ok([root]) if root.all("html").len() == 1 && root.all("title").len() == 1 => Ok(root),
        open => Err(format!("not one whole page: {open:?}").into()),
    }
}

fn unescape(text: &str) -> Result<String, Failed> {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (entity, behind) = part.split_once(';').ok_or_else(|| format!("a bare & in {text:?}"))?;
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            _ => return Err(format!("&{entity}; is not known").into()),
        });
        plain.push_str(behind);
    }
    if text.contains(['<', '>']) { Err(format!("bare markup in {text:?}").into()) } else { Ok(plain) }
}
