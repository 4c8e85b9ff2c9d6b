// SPDX-License-Identifier: MIT OR Apache-2.0
//! The attribute `#[live::test]`.

use proc_macro::{Delimiter, Group, Ident, TokenStream, TokenTree};

/// Registers a function as a test. The arguments say what the test needs and when it runs: expressions
/// with the items of `live::needs` in scope.
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, function: TokenStream) -> TokenStream {
    let Some(name) = name(function.clone()) else {
        return parsed("compile_error!(\"#[live::test] is for functions\");");
    };
    // The function itself, followed by: live::inventory::submit! { live::Test::new(PATH, NAME, TERMS) }
    let terms = join([parsed("use ::live::needs::*; &"), group(Delimiter::Bracket, arguments)]);
    let call = join([
        parsed(&format!("concat!(module_path!(), \"::{name}\"), ")),
        TokenTree::Ident(name).into(),
        parsed(","),
        group(Delimiter::Brace, terms),
    ]);
    let test = join([parsed("::live::Test::new"), group(Delimiter::Parenthesis, call)]);
    join([function, parsed("::live::inventory::submit!"), group(Delimiter::Brace, test)])
}

/// The name of the function: the identifier after the first `fn`.
fn name(function: TokenStream) -> Option<Ident> {
    let mut tokens = function.into_iter();
    tokens.find(|token| matches!(token, TokenTree::Ident(word) if word.to_string() == "fn"))?;
    match tokens.next()? {
        TokenTree::Ident(name) => Some(name),
        _ => None,
    }
}

#[allow(clippy::expect_used, reason = "what is parsed stands here")]
fn parsed(text: &str) -> TokenStream {
    text.parse().expect("it is Rust")
}

fn group(delimiter: Delimiter, inner: TokenStream) -> TokenStream {
    TokenTree::Group(Group::new(delimiter, inner)).into()
}

fn join<const N: usize>(parts: [TokenStream; N]) -> TokenStream {
    parts.into_iter().collect()
}
