package gcstest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Sessions stands before a Server and keeps resumable sessions as Google documents them. The server itself takes a question
// about a session for its end, and a chunk that is repeated for another. All other requests pass through, and so does an
// upload that is complete. It is safe for concurrent use.
type Sessions struct {
	URL string
	// Take says, if it is set, how much is taken of that many bytes of a chunk, and whether the connection is cut then. It is
	// called for one chunk at a time.
	Take func(sent int) (taken int, cut bool)

	target string

	mu   sync.Mutex
	open map[string]*upload
}

type upload struct {
	query   url.Values // of the request that began it
	about   []byte
	content []byte
	done    []byte // the answer, once the object is there
}

// unit is what all chunks but the last are multiples of, in bytes.
const unit = 256 << 10

// NewSessions starts one before the server, which ends with the test.
func NewSessions(t testing.TB, server *Server) *Sessions {
	s := &Sessions{target: server.Endpoint, open: map[string]*upload{}}
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(target)
	pass.ErrorLog = log.New(io.Discard, "", 0)
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch id := r.URL.Query().Get("upload_id"); {
		case r.Method == http.MethodPost && r.URL.Query().Get("uploadType") == "resumable":
			s.begin(w, r)
		case id != "" && r.Method == http.MethodPut:
			s.put(w, r, id)
		case id != "" && r.Method == http.MethodDelete:
			s.cancel(w, id)
		default:
			pass.ServeHTTP(w, r)
		}
	}))
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.Start()
	t.Cleanup(front.Close)
	s.URL = front.URL
	return s
}

// Left tells how many sessions are under way, or were left behind.
func (s *Sessions) Left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, u := range s.open {
		if u.done == nil {
			n++
		}
	}
	return n
}

func (s *Sessions) begin(w http.ResponseWriter, r *http.Request) {
	about, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	id := rand.Text()
	s.mu.Lock()
	s.open[id] = &upload{query: r.URL.Query(), about: about}
	s.mu.Unlock()
	// The host is one that nobody may send a token to.
	w.Header().Set("Location", "https://elsewhere.invalid"+r.URL.EscapedPath()+"?uploadType=resumable&upload_id="+id)
}

func (s *Sessions) cancel(w http.ResponseWriter, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[id] == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	delete(s.open, id)
	w.WriteHeader(499)
}

func (s *Sessions) put(w http.ResponseWriter, r *http.Request, id string) {
	sent, readErr := io.ReadAll(r.Body) // what has come before a cut counts
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.open[id]
	switch {
	case u == nil:
		w.WriteHeader(http.StatusNotFound)
		return
	case u.done != nil:
		_, _ = w.Write(u.done)
		return
	}
	span, total, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Content-Range"), "bytes "), "/")
	cut := readErr != nil
	if span != "*" {
		var from, to int
		if _, err := fmt.Sscanf(span, "%d-%d", &from, &to); err != nil || from != len(u.content) || !cut && to-from+1 != len(sent) || total == "*" && (to-from+1)%unit != 0 {
			http.Error(w, "Invalid request: "+r.Header.Get("Content-Range"), http.StatusBadRequest)
			return
		}
		taken := len(sent)
		if s.Take != nil {
			n, cutToo := s.Take(taken)
			taken, cut = min(taken, n), cut || cutToo
		}
		if taken < len(sent) || readErr != nil {
			taken -= taken % unit
		}
		u.content = append(u.content, sent[:taken]...)
	}
	switch {
	case cut:
		panic(http.ErrAbortHandler)
	case total == fmt.Sprint(len(u.content)):
		s.finish(w, r, id, u)
		return
	}
	if len(u.content) > 0 {
		w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", len(u.content)-1))
	}
	w.WriteHeader(http.StatusPermanentRedirect)
}

// finish lets the object appear in the server. Whoever calls holds mu.
func (s *Sessions) finish(w http.ResponseWriter, r *http.Request, id string, u *upload) {
	delete(s.open, id)
	sum := crc32.Checksum(u.content, crc32.MakeTable(crc32.Castagnoli))
	if want := "crc32c=" + base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum)); r.Header.Get("X-Goog-Hash") != want {
		http.Error(w, "Provided CRC32C doesn't match calculated CRC32C", http.StatusBadRequest)
		return
	}
	boundary := rand.Text()
	part := "\r\n--" + boundary + "\r\nContent-Type: %s\r\n\r\n"
	body := io.MultiReader(strings.NewReader(fmt.Sprintf(part, "application/json")), bytes.NewReader(u.about),
		strings.NewReader(fmt.Sprintf(part, "application/octet-stream")), bytes.NewReader(u.content), strings.NewReader("\r\n--"+boundary+"--\r\n"))
	u.query.Set("uploadType", "multipart")
	response, err := http.Post(s.target+r.URL.EscapedPath()+"?"+u.query.Encode(), "multipart/related; boundary="+boundary, body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	answer, err := io.ReadAll(response.Body)
	if errors.Join(err, response.Body.Close()) != nil {
		panic(http.ErrAbortHandler)
	}
	if response.StatusCode == http.StatusOK {
		u.done, u.content = answer, nil
		s.open[id] = u
	}
	maps.Copy(w.Header(), response.Header)
	w.WriteHeader(response.StatusCode)
	_, _ = w.Write(answer) // a client that goes away is none of our business
}
