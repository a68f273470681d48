//! The monitor's picture: verdict and worries above, the sessions in a table, the selected one in detail, the controller
//! beside them where there is room, and the keys below.

use super::known::{Seen, span};
use super::{Act, Link, Mode, Screen};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::model::worry::{Severity, bytes};
use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, TableState, Wrap};

/// From this width on the controller is shown beside the sessions.
const WIDE: u16 = 130;
/// Cells of a timeline in the table.
const STRIP: u16 = 30;
/// Worries shown at once.
const WORRIES: usize = 4;

pub(super) fn screen(frame: &mut Frame<'_>, screen: &mut Screen) {
    let now = screen.known.time(SystemClock.now());
    let (severity, verdict) = screen.known.verdict(now);
    let mut head = vec![Line::from(verdict).style(Style::new().fg(colour(severity)).bold())];
    head.extend(screen.known.worries().iter().take(WORRIES).map(|worry| {
        let age = format!(", for {}", span(now.since(worry.since)));
        Line::from(vec![
            Span::from("▌ ").fg(colour(Some(worry.severity))),
            Span::from(worry.text.as_str()),
            Span::from(age).dim(),
            Span::from(format!("; {}", worry.advice)).dim(),
        ])
    }));
    let height = head.len() as u16 + 2;
    let [top, middle, bottom] = Layout::vertical([
        Constraint::Length(height),
        Constraint::Min(8),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let title = Line::from(vec![" ov2-ha-recorder ".bold(), about(screen, now).into()]);
    let line = match screen.known.link {
        Link::Live => " Live ".green(),
        Link::Connecting => " Connecting ".yellow(),
        Link::Lost { .. } => " No answer ".red(),
    };
    let block = Block::bordered()
        .title(title)
        .title(Line::from(line).right_aligned());
    frame.render_widget(Paragraph::new(head).block(block), top);
    body(frame, middle, screen, now);
    frame.render_widget(keys(screen, bottom.width), bottom);
    match &screen.mode {
        Mode::Confirm { act, name, .. } => confirm(frame, *act, name),
        Mode::Keys => all_keys(frame, screen),
        Mode::Look | Mode::Search => {}
    }
}

fn about(screen: &Screen, now: Timestamp) -> String {
    screen
        .known
        .overview
        .as_ref()
        .map_or_else(String::new, |overview| {
            format!(
                "{}, up {} ",
                overview.version,
                span(now.since(overview.started_at))
            )
        })
}

fn body(frame: &mut Frame<'_>, area: Rect, screen: &mut Screen, now: Timestamp) {
    let side = if area.width >= WIDE { 42 } else { 0 };
    let [main, aside] =
        Layout::horizontal([Constraint::Min(40), Constraint::Length(side)]).areas(area);
    let [list, detail] = Layout::vertical([Constraint::Min(5), Constraint::Length(9)]).areas(main);
    let rows = screen.known.rows();
    screen.selected = screen.selected.min(rows.len().saturating_sub(1));
    sessions(frame, list, screen, &rows, now);
    let block = Block::bordered().title(" Details ");
    let text = rows
        .get(screen.selected)
        .map(|row| details(screen, row, now));
    let text = text.unwrap_or_else(|| vec!["No session.".dim().into()]);
    frame.render_widget(
        Paragraph::new(text).wrap(Wrap { trim: true }).block(block),
        detail,
    );
    if side > 0 {
        frame.render_widget(controller(screen, now), aside);
    }
}

fn sessions(frame: &mut Frame<'_>, area: Rect, screen: &Screen, rows: &[&Seen], now: Timestamp) {
    let known = &screen.known;
    let title = format!(
        " Sessions: {} of {}, {}, {}{} ",
        rows.len(),
        known.sessions().count(),
        known.filter.name(),
        known.sort.name(),
        if known.search.is_empty() {
            String::new()
        } else {
            format!(", \"{}\"", known.search)
        },
    );
    let columns = columns(area.width);
    let near = usize::from(area.height);
    let shown = rows.iter().enumerate().map(|(i, row)| {
        // Rows far from the selection are never seen: they cost nothing.
        if i + near < screen.selected || i > screen.selected + near {
            return Row::default();
        }
        Row::new(
            columns
                .iter()
                .map(|(column, width)| cell(screen, column, row, now, *width)),
        )
    });
    let table = Table::new(shown, columns.iter().map(|(_, width)| *width))
        .header(Row::new(columns.iter().map(|(column, _)| *column)).style(Style::new().dim()))
        .row_highlight_style(Modifier::REVERSED)
        .block(Block::bordered().title(title));
    let mut state = TableState::new().with_selected(screen.selected);
    frame.render_stateful_widget(table, area, &mut state);
}

/// The columns that fit, with their widths.
fn columns(width: u16) -> Vec<(&'static str, Constraint)> {
    let strip = if width < 100 { 14 } else { STRIP };
    let all = [
        ("Name", Constraint::Fill(1), 0),
        ("State", Constraint::Length(11), 0),
        ("For", Constraint::Length(11), 90),
        ("Heartbeat", Constraint::Length(11), 60),
        ("Run", Constraint::Length(3), 80),
        ("Chunk", Constraint::Length(6), 110),
        ("Bytes", Constraint::Length(7), 110),
        ("Stored", Constraint::Length(6), 120),
        ("Timeline", Constraint::Length(strip), 50),
    ];
    let fit = all.into_iter().filter(|(_, _, from)| width >= *from);
    fit.map(|(name, length, _)| (name, length)).collect()
}

fn cell(
    screen: &Screen,
    column: &str,
    row: &Seen,
    now: Timestamp,
    width: Constraint,
) -> Line<'static> {
    match column {
        "Name" => row.name().to_owned().into(),
        "State" => {
            let style = if row.over() {
                Style::new().dim()
            } else {
                Style::new().fg(colour(screen.known.severity(row)))
            };
            Line::styled(screen.known.condition(row).to_owned(), style)
        }
        "For" => span(now.since(row.since())).into(),
        "Heartbeat" => span(now.since(row.last_heartbeat)).into(),
        "Run" => row.run.to_string().into(),
        "Chunk" => row.report.chunk.to_string().into(),
        "Bytes" => bytes(row.report.bytes).into(),
        "Stored" => row.report.chunks_stored.to_string().into(),
        _ => match width {
            Constraint::Length(cells) => strip(row, now, cells.into()),
            _ => Line::default(),
        },
    }
}

/// A session's time from its start until now: runs in two colours by turns, gaps in red.
fn strip(session: &Seen, now: Timestamp, width: usize) -> Line<'static> {
    let pieces = session.pieces(now);
    let Some(end) = pieces.last().map(|piece| piece.to) else {
        return Line::default();
    };
    let whole = end.since(session.created_at).as_millis().max(1);
    let at = |stamp: Timestamp| {
        (stamp.since(session.created_at).as_millis() * width as u128 / whole) as usize
    };
    let mut cells = vec![Span::from("·").dim(); width];
    // Gaps last, and never narrower than a cell: what is missing must be seen.
    for gap in [false, true] {
        for piece in pieces.iter().filter(|piece| piece.run.is_none() == gap) {
            let from = at(piece.from).min(width.saturating_sub(1));
            let to = at(piece.to).max(from + 1).min(width);
            let cell = match piece.run {
                None => Span::from("×").red().bold(),
                Some(run) if run.0 % 2 == 1 => Span::from("■").cyan(),
                Some(_) => Span::from("■").blue(),
            };
            cells[from..to].fill(cell);
        }
    }
    Line::from(cells)
}

fn details(screen: &Screen, session: &Seen, now: Timestamp) -> Vec<Line<'static>> {
    let host = session
        .client_host
        .as_deref()
        .map(|host| format!(" on {host}"));
    let report = &session.report;
    let frames = match report.newest_frame_at {
        Some(at) => format!("newest frame on disk {} ago, ", span(now.since(at))),
        None => String::new(),
    };
    let mut lines = vec![
        Line::from(vec![
            session.name().to_owned().bold(),
            format!("  {}", session.session_id).dim(),
        ]),
        Line::from(format!(
            "Recorder {}{}",
            session.client_id,
            host.unwrap_or_default()
        )),
        Line::from(format!(
            "{frames}{} frames, {} late; {} chunks in {}",
            report.frames,
            report.late_frames,
            report.chunks_stored,
            screen
                .known
                .overview
                .as_ref()
                .map_or("the store", |it| it.storage.as_str()),
        )),
    ];
    lines.extend(session.recording_path.clone().map(Line::from));
    let troubles = report.troubles.iter().filter(|_| !session.over());
    lines.extend(troubles.map(|trouble| Line::from(trouble.message.clone()).yellow()));
    for one in session.failovers.iter().rev() {
        let back = one.recovery_ms.map_or("not back yet".to_owned(), |ms| {
            format!("back after {}.{} s", ms / 1000, ms % 1000 / 100)
        });
        lines.push(Line::from(format!(
            "{} ago, run {}: {}; {back}, {} chunks kept",
            span(now.since(one.at)),
            one.old_run,
            one.reason,
            one.chunks_recovered
        )));
    }
    lines
}

fn controller(screen: &Screen, now: Timestamp) -> Paragraph<'static> {
    let mut lines = Vec::new();
    if let Some(overview) = &screen.known.overview {
        for (name, part) in &overview.health.components {
            let up = part.status == "UP";
            let sign = if up {
                "Up    ".green()
            } else {
                part.status.clone().red()
            };
            lines.push(Line::from(vec![
                sign,
                name.clone().into(),
                format!("  {}", part.summary).dim(),
            ]));
        }
        if !overview.waiting.is_empty() {
            lines.push(Line::default());
            lines.push("Open pages, nothing ordered".bold().into());
            let pages = overview.waiting.iter().take(10);
            lines.extend(pages.map(|page| Line::from(page.session_id.clone())));
        }
        let outbox = &overview.outbox;
        lines.push(Line::default());
        lines.push("Webhooks".bold().into());
        lines.push(match outbox.enabled {
            true => format!("{} waiting, {} given up", outbox.pending, outbox.dead).into(),
            false => "relay off".dim().into(),
        });
        if outbox.pending + outbox.dead > 0 {
            lines.extend(
                outbox
                    .last_error
                    .clone()
                    .map(|error| Line::from(error).red()),
            );
        }
    }
    let mut all = screen
        .known
        .sessions()
        .flat_map(|session| session.failovers.iter().map(move |one| (session, one)))
        .collect::<Vec<_>>();
    all.sort_by_key(|(_, one)| std::cmp::Reverse(one.at));
    lines.push(Line::default());
    lines.push(format!("Failovers {}", all.len()).bold().into());
    for (session, one) in all.into_iter().take(20) {
        let ago = span(now.since(one.at));
        lines.push(format!("{ago} ago {}: {}", session.name(), one.reason).into());
    }
    let block = Block::bordered().title(" Controller ");
    Paragraph::new(lines).wrap(Wrap { trim: true }).block(block)
}

/// What the keys do, the most needed first: a narrow terminal shows those that fit.
fn keys(screen: &Screen, width: u16) -> Line<'static> {
    if screen.mode == Mode::Search {
        return Line::from(format!(
            "Search: {}▏ Enter keeps it, Esc clears it",
            screen.known.search
        ));
    }
    if !screen.message.is_empty() {
        return Line::from(screen.message.clone()).yellow();
    }
    let mut line = Line::default();
    for (key, name) in meanings(screen) {
        let more = [
            Span::from(format!(" {key} ")).reversed(),
            Span::from(format!(" {name}  ")),
        ];
        let cells: usize = more.iter().map(Span::width).sum();
        if line.width() + cells > usize::from(width) {
            break;
        }
        line.extend(more);
    }
    line
}

/// The keys that do something for this account.
fn meanings(screen: &Screen) -> Vec<(String, &'static str)> {
    let usual = [
        ("q", "Quit"),
        ("?", "All keys"),
        ("/", "Search"),
        ("Tab", "Show"),
        ("s", "Sort"),
    ];
    let usual = usual.map(|(key, name)| (key.to_owned(), name));
    let overview = screen.known.overview.as_ref();
    let acts = match overview.is_some_and(|overview| overview.viewer) {
        true => &[],
        false => &Act::ALL[..],
    };
    let acts = acts.iter().map(|act| (act.key().to_string(), act.name()));
    usual.into_iter().chain(acts).collect()
}

fn all_keys(frame: &mut Frame<'_>, screen: &Screen) {
    let moves = [
        ("↑ ↓ PgUp PgDn", "Select a session"),
        ("any key", "Close this list"),
    ];
    let moves = moves.map(|(key, name)| (key.to_owned(), name));
    let all = meanings(screen).into_iter().chain(moves);
    let lines = all.map(|(key, name)| Line::from(format!("{key:>14}  {name}")));
    window(frame, " Keys ", lines.collect());
}

fn confirm(frame: &mut Frame<'_>, act: Act, name: &str) {
    let title = if name.is_empty() {
        act.name().to_owned()
    } else {
        format!("{}: {name}", act.name())
    };
    let text = vec![
        Line::from(act.means()),
        Line::default(),
        Line::from("y  Yes      any other key  No").bold(),
    ];
    window(frame, &format!(" {title}? "), text);
}

/// A window with `text` in the middle of the screen.
fn window(frame: &mut Frame<'_>, title: &str, text: Vec<Line<'_>>) {
    let height = (text.len() as u16 + 2).max(7);
    let [row] = Layout::vertical([Constraint::Length(height)])
        .flex(Flex::Center)
        .areas(frame.area());
    let [area] = Layout::horizontal([Constraint::Max(64)])
        .flex(Flex::Center)
        .areas(row);
    let block = Block::bordered().title(title);
    frame.render_widget(Clear, area);
    frame.render_widget(
        Paragraph::new(text).wrap(Wrap { trim: false }).block(block),
        area,
    );
}

const fn colour(severity: Option<Severity>) -> Color {
    match severity {
        None => Color::Green,
        Some(Severity::Look) => Color::Yellow,
        Some(Severity::Act) => Color::Red,
    }
}

#[cfg(test)]
mod tests {
    use super::super::known::tests::session;
    use super::*;
    use crate::model::failover::Reason;
    use crate::model::session::State;
    use crate::model::view::News;
    use crossterm::event::{KeyCode, KeyEvent};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    fn shown(width: u16, screen: &mut Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 30)).unwrap();
        terminal.draw(|frame| super::screen(frame, screen)).unwrap();
        terminal.backend().to_string()
    }

    fn with_a_session() -> Screen {
        let seen = session(
            json!({ "state": "recording", "since": "2026-01-01T00:00:02Z" }),
            json!([]),
        );
        let seen = Seen {
            state: State::TakingOver {
                since: seen.last_heartbeat,
                reason: Reason::OutOfMemory,
                started_at: None,
                not_before: seen.last_heartbeat,
                tries: 0,
            },
            ..seen
        };
        let mut screen = Screen::default();
        let news = News {
            sessions: vec![seen],
            judgement: serde_json::from_value(json!({
                "severity": "look", "verdict": "Recording goes on.", "more": "", "worries": [{
                    "severity": "look", "area": "session", "subject": "ses_A", "badge": "Taking over",
                    "text": "ses_A lost its recorder", "advice": "nothing", "since": "2026-01-01T00:01:00Z",
                }],
            }))
            .ok(),
            ..News::default()
        };
        screen.known.take(true, news, SystemClock.now());
        screen
    }

    #[test]
    fn a_lost_recorder_is_seen_with_its_gap_at_any_width() {
        for width in [40, 80, 200] {
            let text = shown(width, &mut with_a_session());
            assert!(text.contains("ses_A"), "{text}");
        }
        let text = shown(200, &mut with_a_session());
        assert!(text.contains("Taking over") && text.contains('×'), "{text}");
    }

    #[test]
    fn how_to_quit_is_seen_at_any_width_and_a_key_shows_all_others() {
        let mut screen = with_a_session();
        for width in [40, 80, 200] {
            let text = shown(width, &mut screen);
            let last = text.lines().last().unwrap();
            assert!(last.contains(" q  Quit ") && last.contains(" ? "), "{text}");
        }
        screen.key(KeyEvent::from(KeyCode::Char('?')));
        let text = shown(80, &mut screen);
        for act in Act::ALL {
            assert!(
                text.contains(&format!("{}  {}", act.key(), act.name())),
                "{text}"
            );
        }
        screen.key(KeyEvent::from(KeyCode::Char('x')));
        assert_eq!(screen.mode, Mode::Look);
    }

    #[test]
    fn an_action_is_asked_about_with_its_name() {
        let mut screen = with_a_session();
        screen.ask(Act::FailOver);
        assert!(shown(120, &mut screen).contains("Fail over now: ses_A?"));
    }
}
